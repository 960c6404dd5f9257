"""Settings that must stand before torch is imported, and paths that tests share."""

import os

# Two test processes on two cores: more threads only wait for each other, spinning.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network
os.environ["MPLBACKEND"] = "Agg"

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def assets(root) -> Path:
    """The micro world's pictures, fetched once (by whichever worker comes first)."""
    from filelock import FileLock

    from arrag.data.micro.assets import fetch_assets

    folder = root / "data" / "micro"
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.parent / ".fetch.lock"):
        if not (folder / "manifest.json").is_file():
            fetch_assets(folder)
    return folder


@pytest.fixture(scope="session")
def micro_janus(root) -> Path:
    """The shipped micro Janus."""
    return root / "checkpoints" / "micro-janus"


@pytest.fixture(scope="session")
def tiny_janus(tmp_path_factory) -> Path:
    """A Janus of random weights whose codebook rows differ in norm."""
    import torch

    from arrag.backbones import micro

    model, tokenizer = micro.build_janus(seed=1)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in (
            model.model.vqmodel.quantize.embedding.weight,
            model.model.generation_embeddings.weight,
            model.model.generation_head.vision_head.weight,
        ):
            weight.copy_(torch.randn(weight.shape, generator=generator))
        scale = 0.5 + torch.rand(micro.CODES, 1, generator=generator)
        model.model.vqmodel.quantize.embedding.weight.mul_(scale)
    path = tmp_path_factory.mktemp("tiny") / "tiny-janus"
    micro.save_janus(model, tokenizer, path)
    return path


@pytest.fixture(scope="session")
def tiny_showo(tmp_path_factory) -> Path:
    """A Show-o of random weights, 1024 codes of 10 bits, that is sure of some codes."""
    import dataclasses

    import torch

    from arrag.backbones import micro
    from arrag.tokenizers.magvit2 import Magvit

    model, _ = micro.build_showo(
        seed=1, bits=10, hidden_size=64, intermediate_size=128, num_attention_heads=2
    )
    tokenizer = Magvit(dataclasses.replace(micro.SHOWO_TOKENIZER, bits=10))
    with torch.no_grad():
        model.lm_head.weight.mul_(25)
    path = tmp_path_factory.mktemp("tiny") / "tiny-showo"
    micro.save_showo(model, tokenizer, path)
    return path


@pytest.fixture(scope="session")
def workflow_template(tmp_path_factory) -> Path:
    """The workflow's files with stand-in checkpoints and prompts."""
    from workflow_project import make_template

    return make_template(tmp_path_factory.mktemp("workflow") / "project")


@pytest.fixture
def workflow_project(workflow_template, tmp_path):
    """A copy of the workflow in which dry runs are made."""
    import shutil

    from workflow_project import WorkflowProject

    return WorkflowProject(shutil.copytree(workflow_template, tmp_path / "project"))


def pytest_collection_modifyitems(items):
    """Everything in tests/slow is slow."""
    for item in items:
        if "slow" in item.path.parts:
            item.add_marker("slow")
