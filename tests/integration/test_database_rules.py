"""Options of the database and its index: from the configuration to the commands of the rules."""

import re

import yaml


def commands(project, **blocks):
    """The command lines that encode the database and build its index."""
    document = yaml.safe_load(project.config.read_text())
    document.pop("grids", None)  # they vary what is replaced here
    for name, block in blocks.items():
        document[name] |= block
    project.config.write_text(yaml.safe_dump(document))
    project.plan("--printshellcmds", "reports/table1.md")
    (encode,) = re.findall(r"^Shell command: (arrag (?:db )?encode .*)$", project.said, re.M)
    (index,) = re.findall(r"^Shell command: (arrag index build .*)$", project.said, re.M)
    return encode, index


def test_the_rules_pass_everything_on(workflow_project):
    for name in ("my tests", "theirs"):
        (workflow_project.path / name).mkdir()
    for name in ("faiss_ivf_pq_opq.index", "next_codes.npy"):
        (workflow_project.path / "theirs" / name).write_text("")
    encode, index = commands(workflow_project)
    assert "--images 4000" in encode and "--workers" not in encode and "--exclude" not in encode
    assert "--mode ivf" in index and "--key-hop 1 " in index and "--masked-distance" not in index
    encode, index = commands(
        workflow_project,
        database={"exclude": ["my tests", "theirs"], "images": 7},
        index={"masked_distance": True, "key_hop": [1, 2], "border": "zero", "nlist": 40},
        resources={"encode_workers": 2},
    )
    assert "--exclude 'my tests' --exclude theirs" in encode and "--workers 2" in encode
    assert "--border zero" in index and "--nlist 40" in index and "--masked-distance" in index
    published = {"mode": "official", "published": "theirs", "masked_distance": False}
    encode, index = commands(workflow_project, index=published)
    assert "--mode official" in index and "--published theirs" in index
    encode, index = commands(
        workflow_project, index={"mode": "faiss:IVF16,Flat", "published": None}
    )
    assert "--mode faiss:IVF16,Flat" in index and "--published" not in index
