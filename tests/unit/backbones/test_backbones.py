"""What every backbone must pass (docs/how-to/own-backbone.md), on tiny models."""

import json
import shutil
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_backbones import CODES, KINDS, SIDE, N

from arrag.config.root import load_config
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.daid import DAiD
from arrag.methods.decoding import seeded_uniforms
from arrag.methods.faid.adapter import FAiD, FAiDAugmentation, FaidSettings
from arrag.methods.registry import ArtifactPaths
from arrag.methods.runner import sample_benchmark
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.tokenizers.base import load_tokenizer
from arrag.utils.errors import ArragError, FormatError, MismatchError, UsageError
from arrag.utils.files import write_text

PROMPTS = ["a photo of a dog", "a red dog and a blue car", "two"]
STEPS = 4


@pytest.fixture(scope="module", params=KINDS)
def case(request, tmp_path_factory):
    """One kind's checkpoint, backbone in float64, tokenizer, and a database of random grids."""
    kind = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    kind.write(folder)
    backbone, tokenizer = kind.load(folder, "float64"), load_tokenizer(folder)
    border = "skip" if backbone.context == "causal" else "zero"
    rng = np.random.default_rng(0)
    grids = rng.integers(0, len(tokenizer.codebook), (20, SIDE, SIDE))
    with StoreWriter(
        folder.parent / "codes", tokenizer_digest=tokenizer.digest, grid=tokenizer.grid,
        codebook=tokenizer.codebook.numpy(), source="drawn", shard_size=20,
    ) as writer:  # fmt: skip
        writer.add([str(i) for i in range(20)], grids.astype(np.uint16))
    store = TokenStore.open(folder.parent / "codes")
    around = Neighborhood(backbone.context, border=border)
    build_index(store, folder.parent / "index", neighborhood=around, progress=False)
    index = open_index(folder.parent / "index", store, tokenizer.digest)
    return SimpleNamespace(
        name=request.param, kind=kind, folder=folder, backbone=backbone,
        tokenizer=tokenizer, index=index, grids=torch.from_numpy(grids),
        masked=backbone.context == "full",
    )  # fmt: skip


@pytest.fixture
def copy(case, tmp_path):
    """A copy of the checkpoint, to be changed."""
    return shutil.copytree(case.folder, tmp_path / "copy")


def draw(case, prompts=PROMPTS, samples=None, **more):
    """Codes of one image a prompt."""
    shape = (STEPS, 2, N) if case.masked else (N,)
    pairs = zip(prompts, samples or [0] * len(prompts), strict=True)
    numbers = [seeded_uniforms(0, p, s, int(np.prod(shape))).reshape(shape) for p, s in pairs]
    more |= {"steps": STEPS} if case.masked else {}
    return case.kind.decode(
        case.backbone, prompts, np.stack(numbers), guidance_scale=2.0, temperature=2.0, **more
    )


def adapter_of(backbone, **options):
    """An adapter of random weights, none left at a tidy value."""
    torch.manual_seed(5)
    settings = FaidSettings(k=3, hops=(1, 2), context=backbone.context)
    layers = len(backbone.decoder_layers)
    adapter = FAiD(backbone.hidden_size, layers, settings, **options).double().eval()
    if not options:
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return adapter


def test_it_states_what_adapters_and_loops_need(case):
    backbone = case.backbone
    assert backbone.grid == case.tokenizer.grid == (SIDE, SIDE)
    assert backbone.codebook_size == len(case.tokenizer.codebook)
    embedded = backbone.embed_codes(case.grids[:2])
    assert embedded.shape == (2, SIDE, SIDE, backbone.hidden_size)
    assert backbone.num_parameters > 0 and backbone.device.type == "cpu"
    assert len(backbone.decoder_layers) == 4


def test_weight_zero_is_vanilla_bit_for_bit_and_one_is_not(case):
    vanilla = draw(case)
    assert torch.equal(draw(case, augmentation=DAiD(case.index, k=5, lam=0.0, tau=0.1)), vanilla)
    assert not torch.equal(
        draw(case, augmentation=DAiD(case.index, k=5, lam=1.0, tau=0.1)), vanilla
    )


def test_an_image_does_not_depend_on_its_batch(case):
    together = draw(case, PROMPTS + PROMPTS[:1], [0, 0, 0, 1])
    assert torch.equal(draw(case, PROMPTS[2:]), together[2:3])
    assert torch.equal(draw(case, PROMPTS[::-1]), together[:3].flip(0))
    assert not torch.equal(together[0], together[3])
    daid = DAiD(case.index, k=5, lam=0.5, tau=0.1)
    assert torch.equal(
        draw(case, PROMPTS[1:2], augmentation=daid)[0], draw(case, augmentation=daid)[1]
    )


def test_faid_with_zero_convolutions_is_vanilla_bit_for_bit(case):
    vanilla = draw(case)
    for gain, same in ((0.0, True), (1.0, False)):
        adapter = adapter_of(case.backbone, init_gain=gain)
        with adapter.attached(case.backbone):
            drawn = draw(case, augmentation=FAiDAugmentation(adapter, case.index))
        assert torch.equal(drawn, vanilla) == same
    assert torch.equal(draw(case), vanilla)  # nothing is left behind


def stepwise(case, adapter, codes, known, retrieved):
    """Logits [B, N, V] of the conditional rows as the decoding loop asks for them."""
    backbone = case.backbone
    if case.masked:
        state = backbone.start(PROMPTS, 0.0 if case.name == "showo" else 1.0)
        adapter.set_retrieved(retrieved, torch.arange(N), known)
        return backbone.logits(state, codes, known, torch.arange(N))
    state, previous, logits = backbone.start(PROMPTS, 1.0), None, []
    for t in range(N):
        adapter.set_retrieved(retrieved[:, t : t + 1], torch.tensor([t]))
        logits.append(backbone.logits(state, previous))
        previous = codes.flatten(1)[:, t]
    return torch.stack(logits, dim=1)


@torch.no_grad()
def test_teacher_forced_faid_equals_step_by_step(case):
    backbone, codes = case.backbone, case.grids[:3]
    generator = torch.Generator().manual_seed(6)
    retrieved = torch.randint(-1, CODES, (3, N, 3), generator=generator)
    known = torch.rand(3, SIDE, SIDE, generator=generator) < 0.5
    more = (known,) if case.masked else ()
    adapter = adapter_of(backbone)
    bare = backbone.teacher_forced(PROMPTS, codes, *more)
    with adapter.attached(backbone):
        stepped = stepwise(case, adapter, codes, known, retrieved)
        adapter.set_retrieved(retrieved, None, known if case.masked else None)
        forced = backbone.teacher_forced(PROMPTS, codes, *more)
    assert (stepped - forced).abs().max() < 1e-9
    assert (forced - bare).abs().max() > 0.01
    assert torch.equal(backbone.teacher_forced(PROMPTS, codes, *more), bare)


CHANGES = {
    "missing": lambda state, name: state.pop(name),
    "extra": lambda state, name: state.update({name + "s": torch.ones(2)}),
    "shape": lambda state, name: state.update({name: torch.ones(3, 5)}),
}


def test_other_weights_are_refused_by_name(case, copy):
    (file,) = (copy / case.kind.weights).glob("*.safetensors")
    whole = load_file(file)
    name = min(n for n in whole if "layers" in n and whole[n].ndim == 2)
    for change in CHANGES.values():
        state = dict(whole)
        change(state, name)
        save_file(state, file, {"format": "pt"})
        with pytest.raises(MismatchError) as caught:
            case.kind.load(copy)
        assert ".".join(name.split(".")[-3:]) in caught.value.message
        assert copy in (caught.value.path, *caught.value.path.parents)


TEXTS = [
    "a dog\nand\r\n\ta 🐕 on a 🛹, כלב אדום and كلب",
    "a very long tale of a dog and a cat. " * 55,
]


def test_any_text_is_taken(case):
    for prompt in TEXTS:
        truncated = case.kind.truncates and len(prompt) > 100
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            case.backbone.start([prompt, "a dog"], 2.0)
        assert any(prompt in str(w.message) for w in warned) == truncated
        assert case.backbone.truncated_prompts([prompt, "a dog"]) == ([prompt] if truncated else [])
    assert torch.equal(draw(case, ["a dog", TEXTS[0]])[1:], draw(case, TEXTS[:1]))


def test_prompts_that_are_refused(case):
    owner = case.backbone if hasattr(case.backbone, "tokenizer") else case.backbone.captions
    long = "zebra " * 4000  # longer than the context
    if case.kind.truncates:
        assert case.backbone.truncated_prompts(["a dog", long]) == [long]
    else:
        with pytest.raises(UsageError):
            case.backbone.truncated_prompts(["a dog", long])
    refused = [" \n", f"a {owner.tokenizer.all_special_tokens[0]} dog"]
    for prompt in [*refused, *([] if case.kind.truncates else [long])]:
        with pytest.raises(UsageError) as caught:
            case.backbone.start(["a dog", prompt], 2.0)
        assert caught.value.field.startswith("prompt")


def test_another_text_tokenizer_is_refused(case, copy):
    path = copy / case.kind.tokenizer / "tokenizer.json"
    document = json.loads(path.read_text())
    added, words = document["added_tokens"], document["model"]["vocab"]
    if len(added) == 1:  # the model's own markers come after the text's words
        words["extra"] = max(words.values()) + 1
    else:  # each marker has its neighbour's id
        ids = [token["id"] for token in added]
        for token, other in zip(added, ids[1:] + ids[:1], strict=True):
            token["id"] = words[token["content"]] = other
        added.sort(key=lambda token: token["id"])
    path.write_text(json.dumps(document))
    with pytest.raises(MismatchError) as caught:
        case.kind.load(copy)
    assert copy in (caught.value.path, *caught.value.path.parents)


def test_a_folder_without_its_files(case, copy):
    for load in (case.kind.load, load_tokenizer):
        with pytest.raises(ArragError):
            load(copy / "nowhere")
    (file,) = (copy / case.kind.weights).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(FormatError):
        case.kind.load(copy)


def test_from_configuration_to_images(case, root, tmp_path):
    line = '{"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "%s"}\n'
    write_text(tmp_path / "prompts.jsonl", line % "a photo of a dog" + line % "a photo of a cup")
    document = yaml.safe_load((root / "config" / "micro-ci.yaml").read_text())
    more = {"steps": STEPS} if case.masked else {}
    document["generators"] = {
        "tiny": {
            "kind": case.name, "checkpoint": str(case.folder), "guidance_scale": 2.0,
            "dtype": "float64", **more,
        }
    }  # fmt: skip
    document["benchmarks"]["geneval"]["prompts"] = str(tmp_path / "prompts.jsonl")
    document["index"] = {"mode": "exact"}
    document["methods"] = {name: document["methods"][name] for name in ("vanilla", "daid")}
    document.pop("training", None)
    document |= {"grids": {}, "figures": {}}
    write_text(tmp_path / "config.yaml", yaml.safe_dump(document))
    config = load_config(tmp_path / "config.yaml")
    sources = ArtifactPaths(store=case.folder.parent / "codes", index=case.folder.parent / "index")
    drawn = {}
    for method, where in (("vanilla", ArtifactPaths()), ("daid", sources)):
        run = sample_benchmark(config, method, tmp_path / method, paths=where, progress=False)
        assert run["parameters"] == case.backbone.num_parameters
        drawn[method] = [p.read_bytes() for p in sorted((tmp_path / method).rglob("*.png"))]
    assert len(drawn["vanilla"]) == len(drawn["daid"]) == 4
    assert drawn["vanilla"] != drawn["daid"]
