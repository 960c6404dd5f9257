"""Options of the database and its index: from the configuration to the commands of the rules."""

import re
import shlex

import yaml

from arrag.cli.main import build_parser


def commands(project, **blocks):
    """Parsed command lines of the database's rules, as snakemake would run them."""
    document = yaml.safe_load(project.config.read_text())
    document.pop("grids", None)  # they vary what is replaced here
    for name, block in blocks.items():
        document[name] |= block
    project.config.write_text(yaml.safe_dump(document))
    done = project.snakemake("--dry-run", "--printshellcmds", "reports/table1.md")
    assert done.returncode == 0, done.stdout
    found = {}
    for line in re.findall(
        r"^Shell command: (arrag (?:encode|index build) .*)$", done.stdout, re.M
    ):
        words = shlex.split(line.partition(" > ")[0])[1:]
        found[words[0]] = build_parser().parse_args(words)
    return found["encode"], found["index"]


def test_the_rules_pass_everything_on(workflow_project):
    for name in ("my tests", "theirs"):
        (workflow_project.path / name).mkdir()
    for name in ("faiss_ivf_pq_opq.index", "next_codes.npy"):
        (workflow_project.path / "theirs" / name).write_text("")
    encode, index = commands(workflow_project)
    assert (encode.exclude, encode.workers, encode.images) == ([], 0, 4000)
    assert (index.mode, index.key_hop, index.masked_distance) == ("ivf", [1], False)
    encode, index = commands(
        workflow_project,
        database={"exclude": ["my tests", "theirs"], "images": 7},
        index={"masked_distance": True, "key_hop": [1, 2], "border": "zero", "nlist": 40},
        resources={"encode_workers": 2},
    )
    assert (encode.exclude, encode.workers) == (["my tests", "theirs"], 2)
    assert (index.key_hop, index.border, index.nlist) == ([1, 2], "zero", 40)
    assert index.masked_distance
    published = {"mode": "official", "published": "theirs", "masked_distance": False}
    encode, index = commands(workflow_project, index=published)
    assert (index.mode, str(index.published)) == ("official", "theirs")
    encode, index = commands(
        workflow_project, index={"mode": "faiss:IVF16,Flat", "published": None}
    )
    assert (index.mode, index.published) == ("faiss:IVF16,Flat", None)
