"""Options of the database and its index: from the configuration to the commands of the rules."""

import re
import shlex
from pathlib import Path

import yaml

from arrag.cli.main import build_app


def commands(project, **blocks):
    """Arguments of `db encode` and `index build`, as snakemake would run them."""
    document = yaml.safe_load(project.config.read_text())
    document.pop("grids", None)  # they vary what is replaced here
    for name, block in blocks.items():
        document[name] |= block
    project.config.write_text(yaml.safe_dump(document))
    project.plan("--printshellcmds", "reports/table1.md")
    found = {}
    for group, command in (("db", "encode"), ("index", "build")):
        line = re.findall(rf"^Shell command: (arrag {group} {command} .*)$", project.said, re.M)[-1]
        words = shlex.split(line.partition(" > ")[0])[1:]
        _, bound, _ = build_app().parse_args(words, exit_on_error=False, print_error=False)
        bound.apply_defaults()
        found[command] = bound.arguments
    return found["encode"], found["build"]


def subset(arguments, **wanted):
    return {name: arguments[name] for name in wanted} == wanted


def test_the_rules_pass_everything_on(workflow_project):
    for name in ("my tests", "theirs"):
        (workflow_project.path / name).mkdir()
    for name in ("faiss_ivf_pq_opq.index", "next_codes.npy"):
        (workflow_project.path / "theirs" / name).write_text("")
    encode, index = commands(workflow_project)
    assert subset(encode, exclude=None, workers=0, images=4000)
    assert subset(index, mode="ivf", key_hop=[1], masked_distance=False)
    encode, index = commands(
        workflow_project,
        database={"exclude": ["my tests", "theirs"], "images": 7},
        index={"masked_distance": True, "key_hop": [1, 2], "border": "zero", "nlist": 40},
        resources={"encode_workers": 2},
    )
    assert subset(encode, exclude=["my tests", "theirs"], workers=2, images=7)
    assert subset(index, key_hop=[1, 2], border="zero", nlist=40, masked_distance=True)
    published = {"mode": "official", "published": "theirs", "masked_distance": False}
    _, index = commands(workflow_project, index=published)
    assert subset(index, mode="official", published=Path("theirs"))
    _, index = commands(workflow_project, index={"mode": "faiss:IVF16,Flat", "published": None})
    assert subset(index, mode="faiss:IVF16,Flat", published=None)
