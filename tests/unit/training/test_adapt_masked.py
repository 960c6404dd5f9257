"""Training adapters of a masked generator: from a configuration to weights that draw."""

import contextlib
import json
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from accelerate import Accelerator

from arrag.backbones.registry import BACKBONES
from arrag.cli.main import main
from arrag.config.generators import Generator
from arrag.config.root import load_config
from arrag.config.training import LoraSettings
from arrag.data.encode import encode_source
from arrag.data.token_store import TokenStore
from arrag.methods.registry import ArtifactPaths, open_method
from arrag.pipeline.layout import Layout
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.training.adapt import compare_adapters, train_adapter
from arrag.training.masked import StepMasks
from arrag.training.neighbours import Neighbours, own_images
from arrag.training.pairs import Pairs
from arrag.training.trainer import Data, Trainer
from arrag.utils.files import write_text
from arrag.utils.hashing import tree_digest

IMAGES, K = 24, 3
TRAINING = {
    "source": "micro", "pairs": 16, "held_out": 4, "epochs": 2.0, "global_batch": 4,
    "learning_rate": 0.01, "warmup": 0.2, "drop_prompt": 0.3, "mixed_precision": "no",
    "lora": {"r": 2, "alpha": 4.0, "dropout": 0.1}, "faid": {"k": K, "hops": [1], "init_gain": 0.5},
}  # fmt: skip
METHODS = {
    "showo": {"label": "Show-o"},
    "showo-finetune": {"label": "fine-tuned", "augment": {"kind": "finetune", "adapter": None}},
    "showo-faid": {"label": "+ FAiD", "augment": {"kind": "faid", "adapter": None, "k": 4}},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_showo, root, assets):
    """All that a training reads, made where the workflow would have it: config, layout, data."""
    folder = tmp_path_factory.mktemp("masked")
    line = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "%s"}\n'
    write_text(folder / "prompts.jsonl", line % "a photo of a dog")
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text())
    document |= {"index": {"mode": "exact"}, "training": TRAINING, "methods": METHODS}
    document |= {"grids": {}, "figures": {}}
    document["database"]["images"] = IMAGES
    document["benchmarks"]["geneval"]["prompts"] = str(folder / "prompts.jsonl")
    document["generators"] = {"showo": {
        "kind": "showo", "checkpoint": str(tiny_showo), "guidance_scale": 1.0, "steps": 4,
    }}  # fmt: skip
    write_text(folder / "config.yaml", yaml.safe_dump(document))
    config = load_config(folder / "config.yaml")
    layout = Layout(config)
    codes, where = (folder / part("showo-faid") for part in (layout.codes, layout.index))
    encode_source("micro:database", tiny_showo, codes, limit=IMAGES, assets=assets)
    placed, store = config.resolved("showo-faid").index, TokenStore.open(codes)
    around = Neighborhood(placed.context, placed.key_hop, placed.border)
    build_index(store, where, neighborhood=around, mode="exact", progress=False)
    run(folder, "pairs", "showo-finetune", "--assets", assets)
    run(folder, "neighbours", "showo-faid")
    pairs, index = Pairs.open(folder / layout.pairs("showo-faid")), open_index(where, store)
    neighbours = Neighbours(folder / layout.neighbours("showo-faid"), pairs, K, index.digest)
    return SimpleNamespace(
        folder=folder, config=config, layout=layout, index=index, pairs=pairs,
        data={"finetune": Data(pairs), "faid": Data(pairs, neighbours)},
    )  # fmt: skip


def run(folder, command, method, *options):
    """``arrag train`` in a folder."""
    config = ["--config", folder / "config.yaml", "--method", method]
    with contextlib.chdir(folder):
        assert main(["train", *command.split(), *map(str, [*config, *options])]) == 0


@pytest.fixture(scope="module")
def trained(made):
    """FAiD and its control, trained by the commands."""
    for kind in ("faid", "finetune"):
        run(made.folder, f"adapter {kind}", f"showo-{kind}", "--batch-size", 4, "--cpu")
    adapters = made.layout.trained_adapter
    return {kind: made.folder / adapters(f"showo-{kind}") for kind in ("faid", "finetune")}


def trainer(made, kind, batch_size=4, seed=0, **changes):
    resolved = made.config.resolved(f"showo-{kind}")
    training = resolved.training.model_copy(update=changes)
    accelerator, data = Accelerator(cpu=True), made.data[kind]
    return Trainer(kind, resolved.generator, training, seed, data, accelerator, batch_size)


def test_generators_that_are_trained_here_are_those_that_training_knows():
    kinds = get_args(get_args(Generator)[0])
    said = {get_args(k.model_fields["kind"].annotation)[0]: k.trainable for k in kinds}
    heads = {kind: kind in BACKBONES and BACKBONES.get(kind).trainable_head for kind in said}
    assert said == {kind: bool(head) for kind, head in heads.items()}


def test_pairs_retrieve_by_all_their_neighbours(made):
    """Of every other image's patches those whose eight neighbours differ in the fewest bits."""
    store, pairs, n = made.index.store, made.pairs, 12
    bits = np.pad(store.codebook, ((0, 1), (0, 0)))  # a zero vector off the grid
    edge = len(store.codebook)

    def key(grid, row, col):
        padded = np.pad(grid.astype(int), 1, constant_values=edge)
        return bits[np.delete(padded[row : row + 3, col : col + 3].flatten(), 4)]

    grids = store.grids(np.arange(len(store)))
    neighbours = made.data["faid"].neighbours
    for pair, row, col in ((0, 5, 5), (3, 0, 0), (int(pairs.held_out[0]), 11, 6)):
        own = own_images(pairs.store, store)(pair)
        assert len(own) == (pair in pairs.train)
        wanted = key(pairs.store.grids(np.array([pair]))[0], row, col)
        ranked = sorted(
            (((key(grids[i], r, c) - wanted) ** 2).sum(), i * n * n + r * n + c)
            for i in np.setdiff1d(np.arange(len(store)), own)
            for r in range(n)
            for c in range(n)
        )
        codes = [int(grids.reshape(-1)[entry]) for _, entry in ranked[:K]]
        assert neighbours.codes(np.array([pair]), K)[0, row * n + col].tolist() == codes


def test_each_step_hides_anew_and_any_cut_of_it_alike():
    noise = StepMasks((7, 3), 8, 144)
    first, weights = noise.at(np.arange(8, 16))
    again, some = StepMasks((7, 3), 8, 144).at(np.arange(12, 14))
    assert torch.equal(first[4:6], again) and torch.equal(weights[4:6], some)
    assert weights.mean().item() == pytest.approx(1)
    unknown = (~first).sum(1)
    assert torch.allclose(weights, unknown / unknown.float().mean())
    assert not torch.equal(first, noise.at(np.arange(16, 24))[0])
    assert not torch.equal(first, StepMasks((8, 3), 8, 144).at(np.arange(8, 16))[0])


def test_the_loss_is_the_mean_over_the_hidden_codes_of_a_step(made):
    """By hand, and its gradient, however the step is cut."""
    still, losses, gradients = LoraSettings(r=2, alpha=4.0, dropout=0.0), [], []
    for size in (4, 2):
        ours = trainer(made, "faid", batch_size=size, lora=still)
        second = range(ours.grad_accum_steps, 2 * ours.grad_accum_steps)  # step
        loss = sum(ours.loss_fn(i) / ours.grad_accum_steps for i in second)
        loss.backward()
        trained = [p for p in ours.model.parameters() if p.requires_grad]
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert torch.allclose(*gradients, atol=1e-5 * gradients[0].abs().max())
    places = np.arange(4, 8)
    pairs, dropped = ours._pairs_at(places), torch.from_numpy(ours._dropped(places))
    known, backbone, faid = ours._masks.at(places)[0], ours.backbone, ours.model.faid
    codes = torch.from_numpy(made.pairs.store.grids(pairs).astype(np.int64)).flatten(1)
    ids, mask = backbone.tokenize([made.pairs.captions[i] for i in pairs])
    empty, seen = backbone.unconditional_ids(ids, mask)
    ids, mask = torch.where(dropped[:, None], empty, ids), torch.where(dropped[:, None], seen, mask)
    retrieved = made.data["faid"].neighbours.codes(pairs, K)
    assert dropped.any() and not dropped.all()
    retrieved[dropped] = -1
    with torch.no_grad():
        faid.set_retrieved(retrieved, known=known.view(-1, 12, 12))
        logits = backbone.teacher_forced((ids, mask), codes, known)
        wanted = F.cross_entropy(logits[~known], codes[~known])
    assert losses[0] == pytest.approx(wanted.item(), rel=1e-5)


def test_with_zero_gain_faid_begins_as_plain_fine_tuning(made):
    def loss(gain):
        faid = made.config.training.faid.model_copy(update={"init_gain": gain})
        return trainer(made, "faid", faid=faid).loss_fn(0).item()

    # The same pairs, dropped prompts and hidden codes.
    assert trainer(made, "finetune").loss_fn(0).item() == loss(0) != loss(1)


def test_a_few_steps_reduce_the_loss(made, trained):
    for kind, folder in trained.items():
        before = trainer(made, kind)
        first = before.held_out(before.model).mean()
        about = json.loads((folder / "config.json").read_text())
        assert about["steps"] == 8 and about["held_out"]["mean"] < first - 0.3
        assert "nats a hidden code" in (folder / "README.md").read_text()
    found = compare_adapters(trained["faid"], trained["finetune"])
    assert found["images"] == 4 and found["difference"][0] != 0


def test_a_killed_training_gives_the_same_adapter(made, trained, tmp_path, monkeypatch):
    """Stopped in its fourth step and begun again, it ends with the very same bytes."""
    resolved = made.config.resolved("showo-faid")

    def again():
        train_adapter(
            "faid", resolved.generator, resolved.training, made.data["faid"], tmp_path / "faid",
            tmp_path / "work", batch_size=4, save_minutes=0, cpu=True,
        )  # fmt: skip

    class Killed(Trainer):
        def loss_fn(self, number):
            if number == 3:
                raise KeyboardInterrupt
            return super().loss_fn(number)

    with monkeypatch.context() as patched:
        patched.setattr("arrag.training.adapt.Trainer", Killed)
        with pytest.raises(KeyboardInterrupt):
            again()
    assert not (tmp_path / "faid").exists() and (tmp_path / "work" / "state.pt").exists()
    again()
    assert tree_digest(tmp_path / "faid") == tree_digest(trained["faid"])


def test_adapters_change_what_is_drawn(made, trained):
    drawn = {}
    for method in METHODS:
        kind = method.removeprefix("showo-")
        sources = ArtifactPaths(adapter=trained.get(kind))
        if kind == "faid":
            parts = made.layout.artifacts_for(method)
            store, index = (made.folder / parts[part] for part in ("codes", "index"))
            sources = ArtifactPaths(store, index, adapter=trained[kind])
        sampler = open_method(made.config, method, sources)
        drawn[method] = sampler.generate_codes(["a photo of a dog"], [0], 0)
        assert drawn[method].shape == (1, 12, 12)
    assert not torch.equal(drawn["showo"], drawn["showo-finetune"])
    assert not torch.equal(drawn["showo-finetune"], drawn["showo-faid"])


def test_held_out_losses_do_not_depend_on_the_seed(made):
    """Two adapters are measured with the same codes hidden."""
    ours, other = trainer(made, "finetune"), trainer(made, "finetune", batch_size=2, seed=5)
    assert np.allclose(ours.held_out(ours.model), other.held_out(other.model), rtol=1e-5)
