"""FAiD against loops over its definition, and what it must not change."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from faid_reference import CODES, HIDDEN, SIDE, Reference, TinyShowo, tiny_janus
from safetensors.torch import load_file, save_file

from arrag.backbones.janus import JanusBackbone
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.decoding import decode_raster, seeded_uniforms
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation, FaidSettings
from arrag.methods.faid.module import distinct
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError

N = SIDE * SIDE
PROMPTS = ["a photo of a dog", "a photo of a red dog and a blue car", "a photo of two apples"]


def build(backbone, **settings):
    """An adapter of random weights, none of them left at a tidy initial value."""
    torch.manual_seed(5)
    adapter = FAiD(
        backbone.hidden_size,
        len(backbone.decoder_layers),
        FaidSettings(**{"k": 4, "context": backbone.context, **settings}),
    ).double()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return adapter.eval()


def inputs(batch=3, count=N, k=4, codes=CODES):
    """Codes [B, N] and retrieved codes [B, N, k]: some absent, some positions without any."""
    rng = torch.Generator().manual_seed(6)
    grids = torch.randint(0, codes, (batch, count), generator=rng)
    retrieved = torch.randint(-1, codes // 4, (batch, count, k), generator=rng)
    retrieved[:, :3] = -1
    return grids, retrieved


@pytest.fixture(scope="module")
def janus():
    return tiny_janus()


@pytest.fixture(scope="module")
def showo():
    return TinyShowo()


OPTIONS = [
    {"hops": (1,)},
    {"hops": (2,)},
    {"hops": (1, 2)},
    {"hops": (1, 2, 3), "modules": 1},
    {"absent": "zero"},
    {"absent": "compat_infer"},
    {"merge": "sum", "pool": "sum", "score": "linear"},
    {"merge": "mean", "site": "post_layer", "modules": 4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equals_the_loops_over_its_definition(janus, options):
    adapter, (codes, retrieved) = build(janus, **options), inputs(batch=2)
    with torch.no_grad():
        bare = janus.teacher_forced(PROMPTS[:2], codes)
        with Reference(adapter, janus, retrieved):
            wanted = janus.teacher_forced(PROMPTS[:2], codes)
        with adapter.attached(janus):
            adapter.set_retrieved(retrieved)
            got = janus.teacher_forced(PROMPTS[:2], codes)
    assert (got - wanted).abs().max() < 1e-10
    assert (got - bare).abs().max() > 0.1


@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
@pytest.mark.parametrize("positions", [None, [0, 3, 7, 12, 19], [11]])
def test_equals_the_loops_in_the_full_context(showo, options, positions):
    adapter, count = build(showo, **options), 4 * SIDE
    codes, retrieved = inputs(batch=2, count=count)
    retrieved = retrieved[:, -len(positions or range(count)) :]
    known = torch.rand(2, 4, SIDE, generator=torch.Generator().manual_seed(7)) < 0.6
    ids, codes = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 7, 7]]), codes.view(2, 4, SIDE)
    with torch.no_grad():
        bare = showo.masked(ids, codes, known, unconditional=1)
        with Reference(adapter, showo, retrieved, positions, known):
            wanted = showo.masked(ids, codes, known, unconditional=1)
        with adapter.attached(showo):
            at = None if positions is None else torch.tensor(positions)
            adapter.set_retrieved(retrieved, at, known)
            got = showo.masked(ids, codes, known, unconditional=1)
    assert (got - wanted).abs().max() < 1e-10
    assert torch.equal(got[2], bare[2]) and (got[:2] - bare[:2]).abs().max() > 0.1


def step_by_step(backbone, adapter, prompts, codes, retrieved, guidance):
    """Logits of given codes from the cached decoder, [B, N, V]."""
    state, previous, logits = backbone.start(prompts, guidance), None, []
    for t in range(codes.shape[1]):
        if adapter is not None:
            adapter.set_retrieved(retrieved[:, t : t + 1], torch.tensor([t]))
        logits.append(backbone.logits(state, previous))
        previous = codes[:, t]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.inference_mode()
def test_teacher_forced_equals_step_by_step(janus, options):
    adapter, (codes, retrieved) = build(janus, **options), inputs()
    ids, mask = janus.tokenize(PROMPTS)
    with adapter.attached(janus):
        stepped = step_by_step(janus, adapter, PROMPTS, codes, retrieved, 3.0)
        adapter.set_retrieved(retrieved)
        conditional = janus.teacher_forced(PROMPTS, codes)
        adapter.set_retrieved(None)
        bare = janus.teacher_forced(janus.unconditional_ids(ids, mask), codes)
    assert (stepped - (bare + 3.0 * (conditional - bare))).abs().max() < 1e-10


@torch.inference_mode()
def test_teacher_forced_equals_step_by_step_on_the_micro_model(micro_janus):
    shipped = JanusBackbone.load(micro_janus)  # float32
    adapter, (codes, retrieved) = build(shipped, k=10).float(), inputs(2, 144, 10, 1024)
    with adapter.attached(shipped):
        stepped = step_by_step(shipped, adapter, PROMPTS[:2], codes, retrieved, 1.0)
        adapter.set_retrieved(retrieved)
        forced = shipped.teacher_forced(PROMPTS[:2], codes)
    assert (stepped - forced).abs().max() <= 1e-4 * forced.abs().max()


def test_unconditional_rows_and_positions_without_patches_get_nothing(janus):
    adapter, (codes, retrieved) = build(janus), inputs()
    with torch.inference_mode():
        alone = step_by_step(janus, None, PROMPTS, codes, retrieved, 0.0)  # guidance 0: u alone
        bare = janus.teacher_forced(PROMPTS, codes)
        with adapter.attached(janus):
            assert torch.equal(step_by_step(janus, adapter, PROMPTS, codes, retrieved, 0.0), alone)
            adapter.set_retrieved(retrieved)
            got = janus.teacher_forced(PROMPTS, codes)
    assert torch.equal(got[:, :3], bare[:, :3])  # nothing was retrieved there, nor before
    assert not torch.isclose(got[:, 3:], bare[:, 3:]).all(dim=-1).any()
    assert torch.equal(janus.teacher_forced(PROMPTS, codes), bare)  # detached


@pytest.mark.parametrize("architecture", ["janus", "showo", "micro"])
def test_zeroed_convolutions_are_the_bare_model_bit_for_bit(architecture, request, micro_janus):
    if architecture == "micro":
        backbone = JanusBackbone.load(micro_janus, "float64")
    else:
        backbone = request.getfixturevalue(architecture)
    adapter, count = build(backbone), backbone.grid[0] * backbone.grid[1]
    with torch.no_grad():
        for block in adapter.blocks.values():
            for first, second in block.convs.values():
                for conv in (first, second):
                    conv.weight.zero_()
                    conv.bias.zero_()
    codes, retrieved = inputs(batch=2, count=count)
    known = torch.ones(2, *backbone.grid, dtype=torch.bool)

    def run():
        if architecture == "showo":
            return showo_run(backbone, codes, known)
        return backbone.teacher_forced(PROMPTS[:2], codes)

    def showo_run(backbone, codes, known):
        return backbone.masked(torch.ones(2, 3, dtype=torch.long), codes.view(known.shape), known)

    with torch.no_grad():
        bare = run()
        with adapter.attached(backbone):
            adapter.set_retrieved(retrieved, known=known)
            assert torch.equal(run(), bare)


def test_a_first_step_from_gain_0_is_the_bare_model_and_can_learn(janus):
    torch.manual_seed(0)
    adapter = FAiD(HIDDEN, 4, FaidSettings(k=4), init_gain=0.0).double()
    codes, retrieved = inputs()
    bare = janus.teacher_forced(PROMPTS, codes)
    with adapter.attached(janus):
        adapter.set_retrieved(retrieved)
        logits = janus.teacher_forced(PROMPTS, codes)
    assert torch.equal(logits, bare)
    F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()
    assert adapter.blocks["0"].convs["hop1"][1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_weight(janus, autocast):
    backbone = tiny_janus(torch.float32) if autocast else janus
    adapter, (codes, retrieved) = build(backbone).train(), inputs()
    adapter = adapter.float() if autocast else adapter
    with adapter.attached(backbone), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        adapter.set_retrieved(retrieved)
        logits = backbone.teacher_forced(PROMPTS, codes)  # with padding on the left
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        loss.backward()
    for name, parameter in adapter.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


def test_the_gradient_is_that_of_the_loops(janus):
    (codes, retrieved), adapter = inputs(batch=1), build(janus)
    gradients = []
    for loops in (False, True):
        adapter.zero_grad()
        if loops:
            with Reference(adapter, janus, retrieved):
                logits = janus.teacher_forced(PROMPTS[:1], codes)
        else:
            with adapter.attached(janus):
                adapter.set_retrieved(retrieved)
                logits = janus.teacher_forced(PROMPTS[:1], codes)
        F.cross_entropy(logits.flatten(0, 1), codes.flatten()).backward()
        gradients.append([p.grad.clone() for p in adapter.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)


def test_new_weights_are_seen_between_steps(janus):
    adapter, (codes, retrieved) = build(janus), inputs()
    with adapter.attached(janus), torch.no_grad():
        adapter.set_retrieved(retrieved)
        before = janus.teacher_forced(PROMPTS, codes)
        adapter.blocks["0"].convs["hop2"][0].weight.mul_(1.5)
        after = janus.teacher_forced(PROMPTS, codes)
    fresh = build(janus)
    fresh.load_state_dict(adapter.state_dict())
    with fresh.attached(janus), torch.no_grad():
        fresh.set_retrieved(retrieved)
        assert torch.equal(janus.teacher_forced(PROMPTS, codes), after)
    assert not torch.equal(before, after)


def test_distinct_counts_repeats():
    codes = torch.randint(-1, 4, (5, 7, 6), generator=torch.Generator().manual_seed(0))
    values, counts = distinct(codes)
    assert values.shape[-1] == max(len(set(row.tolist())) for row in codes.flatten(0, 1))
    for row, value, count in zip(
        codes.flatten(0, 1), values.flatten(0, 1), counts.flatten(0, 1), strict=True
    ):
        got = {int(v): int(c) for v, c in zip(value, count, strict=True) if c}
        assert got == {v: row.tolist().count(v) for v in row.tolist()}


@pytest.fixture(scope="module")
def patch_index(tmp_path_factory):
    """A database of random grids for the tiny Janus."""
    folder = tmp_path_factory.mktemp("database")
    rng = np.random.default_rng(0)
    with StoreWriter(
        folder / "codes", tokenizer_digest="t", grid=(SIDE, SIDE),
        codebook=rng.normal(size=(CODES, 4)).astype(np.float32), source="random", shard_size=64,
    ) as writer:  # fmt: skip
        writer.add([str(i) for i in range(40)], rng.integers(0, CODES, (40, SIDE, SIDE)))
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), progress=False)
    return open_index(folder / "index", store)


def test_decoding_does_not_depend_on_the_batch(janus, patch_index):
    adapter = build(janus)

    def decode(prompts, samples, augment):
        draws = [seeded_uniforms(0, p, s, N) for p, s in zip(prompts, samples, strict=True)]
        return decode_raster(
            janus, prompts, np.stack(draws), guidance_scale=3.0, augmentation=augment
        )

    bare = decode(PROMPTS, [0] * 3, None)
    with adapter.attached(janus):
        augment = FAiDAugmentation(adapter, patch_index)
        together = decode(PROMPTS, [0] * 3, augment)
        for i in range(3):
            assert torch.equal(decode([PROMPTS[i]], [0], augment)[0], together[i])
        backwards = decode(PROMPTS[::-1], [0] * 3, augment)
        assert torch.equal(backwards.flip(0), together)
    assert not torch.equal(together, bare)
    assert torch.equal(decode(PROMPTS, [0] * 3, None), bare)


def test_an_image_of_the_database_is_retrieved_and_blended(janus, patch_index):
    adapter, handed = build(janus, k=1), []
    grid = torch.from_numpy(patch_index.store.grids(np.array([7])).astype(np.int64))
    with adapter.attached(janus), torch.inference_mode():
        for t in range(N):
            FAiDAugmentation(adapter, patch_index).on_step_start(
                grid, torch.arange(N).view(1, SIDE, SIDE) < t, torch.tensor([t])
            )
            handed.append(adapter._handed and int(adapter._handed.codes))
    inside = patch_index.neighborhood.valid_positions(SIDE, SIDE).flatten()
    assert handed == [int(c) if i else None for c, i in zip(grid.flatten(), inside, strict=True)]


def test_adapters_that_do_not_fit_are_refused(janus, showo, patch_index):
    with pytest.raises(ArragError, match="hidden_size is 24, this one's is 16"):
        FAiD(24, 4).attach(janus)
    with pytest.raises(ArragError, match="layers is 6, this one's is 4"):
        FAiD(HIDDEN, 6).attach(janus)
    with pytest.raises(ArragError, match="context is causal, this one's is full"):
        FAiD(HIDDEN, 4).attach(showo)
    with pytest.raises(ArragError, match="modules is 3, which does not divide"):
        FAiD(HIDDEN, 4, FaidSettings(modules=3))
    adapter = build(janus)
    with pytest.raises(ArragError, match="blends 4 patches, 3 were retrieved"):
        adapter.set_retrieved(torch.zeros(1, N, 3, dtype=torch.long))
    with pytest.raises(ArragError, match="k is 3, the adapter was trained with 4"):
        FAiDAugmentation(adapter, patch_index, 3)
    with adapter.attached(janus):
        with pytest.raises(ArragError, match="attached already"):
            adapter.attach(janus)
        adapter.set_retrieved(torch.zeros(2, N, 4, dtype=torch.long))
        with pytest.raises(ValueError, match="for 3 images"):
            janus.teacher_forced(PROMPTS, inputs()[0])
    for settings in (
        {"hops": (2, 1)}, {"hops": ()}, {"k": 0}, {"merge": "max"}, {"absent": "nothing"},
    ):  # fmt: skip
        (field,) = settings
        with pytest.raises(ValueError, match=field):
            FaidSettings(**settings)


def test_saving_and_loading(janus, tmp_path):
    adapter, (codes, retrieved) = build(janus, merge="sum"), inputs()
    path = tmp_path / "adapter.safetensors"
    adapter.save(path, torch.float64, backbone_digest="abc")
    loaded = FAiD.load(path, backbone_digest="abc", expect={"hops": [1, 2]})
    assert loaded.settings == adapter.settings and loaded.dtype == torch.float32
    logits = []
    for one in (adapter, loaded.double()):
        with one.attached(janus), torch.inference_mode():
            one.set_retrieved(retrieved)
            logits.append(janus.teacher_forced(PROMPTS, codes))
    assert torch.allclose(*logits, atol=1e-4)
    adapter.save(tmp_path / "half.safetensors")
    assert (tmp_path / "half.safetensors").stat().st_size < 0.3 * path.stat().st_size
    with pytest.raises(ArragError, match="made for the backbone abc, but def is in use"):
        FAiD.load(path, backbone_digest="def")
    with pytest.raises(ArragError, match=r"its hops is \(1, 2\), wanted \(1,\)"):
        FAiD.load(path, expect={"hops": (1,)})
    with pytest.raises(ArragError, match="no such file"):
        FAiD.load(tmp_path / "nowhere")


def test_files_that_are_damaged_or_of_another_kind(janus, tmp_path):
    adapter = build(janus)
    path = tmp_path / "adapter.safetensors"
    adapter.save(path)
    weights = load_file(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArragError, match="truncated or damaged"):
        FAiD.load(path)
    save_file(weights, path)
    with pytest.raises(ArragError, match="not a FAiD adapter of format 1"):
        FAiD.load(path)
    adapter.save(path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["faid"])
    weights["blocks.0.norm"] = torch.ones(3)
    weights["blocks.9.norm"] = weights.pop("blocks.2.norm")
    save_file(weights, path, metadata={"faid": json.dumps(about)})
    with pytest.raises(ArragError) as error:
        FAiD.load(path)
    for part in (
        "missing: blocks.2.norm",
        "unknown: blocks.9.norm",
        r"blocks.0.norm is [3], wanted [16]",
    ):
        assert part in str(error.value)
    with torch.no_grad():
        adapter.blocks["0"].norm[0] = torch.nan
    with pytest.raises(ArragError, match=r"blocks.0.norm is not finite"):
        adapter.save(path)
