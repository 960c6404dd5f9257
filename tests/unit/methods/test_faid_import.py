"""The authors' checkpoint: same numbers as a plain reading of their forward, clear refusals."""

import json
from types import SimpleNamespace

import pytest
import torch
from faid_reference import CODES, HIDDEN, SIDE, Reference, tiny_janus
from safetensors.torch import load_file, save_file

from arrag.backbones.janus import JanusBackbone
from arrag.cli.main import main
from arrag.methods.adapter_folder import DELTA, MODULES, merge_delta, read_adapter
from arrag.methods.faid.adapter import FAiD
from arrag.methods.faid.convert import import_faid
from arrag.methods.faid.module import FaidSettings
from arrag.utils.errors import ArragError
from arrag.utils.hashing import tree_digest

N, LAYERS, K = SIDE * SIDE, (0, 2), 3
PROMPTS = ["a photo of a dog", "a photo of a red dog and a blue car"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny Janus as a folder."""
    backbone, folder = tiny_janus(torch.float32), tmp_path_factory.mktemp("janus") / "tiny"
    backbone.model.generation_config.pad_token_id = backbone.pad
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return folder


def random(*shape):
    return torch.randn(*shape) * 0.4


def published(merged: bool) -> dict[str, torch.Tensor]:
    """Random weights under the names of the published file; LoRA of rank 4, merged or not."""
    torch.manual_seed(8)
    own = tiny_janus(torch.float32).model.state_dict()
    state = {
        "vision_model.anything": random(2),
        "language_model.lm_head.weight": random(3, HIDDEN),
        "gen_embed.weight": own["model.generation_embeddings.weight"],
        "gen_aligner.layers.0.weight": own["model.generation_aligner.fc1.weight"],
        "gen_aligner.layers.2.bias": own["model.generation_aligner.hidden_layers.0.bias"],
        "gen_head.output_mlp_projector.weight": random(HIDDEN, HIDDEN),
        "gen_head.vision_head.weight": random(CODES, HIDDEN),
    }
    start = "language_model.model." if merged else "language_model.base_model.model.model."
    for layer in range(4):
        at = f"layers.{layer}.self_attn."
        for part in ("q_proj", "v_proj"):
            weight = own[f"model.language_model.{at}{part}.weight"]
            down, up = random(4, HIDDEN), random(HIDDEN, 4)
            if merged:
                state[f"{start}{at}{part}.weight"] = weight + 2.0 * up @ down
            else:
                state[f"{start}{at}{part}.base_layer.weight"] = weight
                state[f"{start}{at}{part}.lora_A.default.weight"] = down
                state[f"{start}{at}{part}.lora_B.default.weight"] = up
        state[f"{start}{at}k_proj.weight"] = own[f"model.language_model.{at}k_proj.weight"]
    for layer in LAYERS:
        at = f"{start}layers.{layer}."
        state[f"{at}retrieval_layernorm.weight"] = 1 + random(HIDDEN)
        for name, size in (("conv1", 2), ("conv12", 2), ("conv2", 3), ("conv22", 3)):
            state[f"{at}blender.{name}.weight"] = random(HIDDEN, HIDDEN, size, size)
            state[f"{at}blender.{name}.bias"] = random(HIDDEN)
        state[f"{at}blender.mlp.0.weight"] = random(HIDDEN, HIDDEN)
        state[f"{at}blender.mlp.0.bias"] = random(HIDDEN)
        state[f"{at}blender.mlp.2.weight"] = random(1, HIDDEN)
        state[f"{at}blender.mlp.2.bias"] = random(1)
        state[f"{at}blender.conv_weights"] = random(2)
    return state


class Conv:
    """Weight and bias of one of their convolutions."""

    def __init__(self, state, name):
        self.weight, self.bias = state[f"{name}.weight"], state[f"{name}.bias"]


def their_modules(state, absent):
    """What the loops need, straight from the published names."""
    blocks = {}
    for layer in LAYERS:
        at = f"language_model.model.layers.{layer}."
        conv = {name: Conv(state, f"{at}blender.{name}") for name in ("conv1", "conv12", "conv2",
                "conv22", "mlp.0", "mlp.2")}  # fmt: skip
        blocks[str(layer)] = SimpleNamespace(
            norm=state[f"{at}retrieval_layernorm.weight"],
            convs={"hop1": (conv["conv1"], conv["conv12"]), "hop2": (conv["conv2"],
                   conv["conv22"])},
            merge=state[f"{at}blender.conv_weights"],
            score=[conv["mlp.0"], None, conv["mlp.2"]],
        )  # fmt: skip
    return SimpleNamespace(blocks=blocks, settings=FaidSettings(k=K, absent=absent))


def their_generator(state):
    """The generator with their LoRA and head, by plain assignment."""
    backbone = tiny_janus(torch.float32)
    own = backbone.model.state_dict()
    for layer in range(4):
        for part in ("q_proj", "v_proj"):
            name = f"layers.{layer}.self_attn.{part}.weight"
            own[f"model.language_model.{name}"].copy_(state[f"language_model.model.{name}"])
    own["model.generation_head.proj_out.weight"].copy_(
        state["gen_head.output_mlp_projector.weight"]
    )
    own["model.generation_head.vision_head.weight"].copy_(state["gen_head.vision_head.weight"])
    return backbone


@pytest.mark.parametrize("absent", ["zero", "compat_infer"])
@pytest.mark.parametrize("merged", [True, False])
@torch.no_grad()
def test_equals_a_plain_reading_of_their_forward(checkpoint, tmp_path, merged, absent):
    save_file(published(merged), tmp_path / "model.safetensors")
    about = import_faid(
        tmp_path, checkpoint, tmp_path / "out", k=K, absent=absent, lora_alpha=8.0
    )  # fmt: skip
    assert about["layers"] == [0, 2] and about["settings"]["hops"] == [1, 2]
    assert about["changed"] == 4 * 2 + 2
    rng = torch.Generator().manual_seed(9)
    codes = torch.randint(0, CODES, (2, N), generator=rng)
    retrieved = torch.randint(0, CODES, (2, N, K), generator=rng)
    for t in range(N):  # their border: first row, first and last column
        if t < SIDE or t % SIDE in (0, SIDE - 1):
            retrieved[:, t] = -1
    theirs = published(merged=True)
    plain = their_generator(theirs)
    with Reference(their_modules(theirs, absent), plain, retrieved):
        wanted = plain.teacher_forced(PROMPTS, codes)
    ours = JanusBackbone.load(checkpoint)
    read_adapter(tmp_path / "out", "faid", tree_digest(checkpoint))
    merge_delta(tmp_path / "out" / DELTA, ours.model)
    adapter = FAiD.load(tmp_path / "out" / MODULES, backbone_digest=tree_digest(checkpoint))
    with adapter.attached(ours):
        adapter.set_retrieved(retrieved)
        got = ours.teacher_forced(PROMPTS, codes)
    assert (got - wanted).abs().max() <= 1e-4
    assert (got - plain.teacher_forced(PROMPTS, codes)).abs().max() > 0.1


def refused(state, checkpoint, tmp_path, name="model.safetensors"):
    save_file(state, tmp_path / name)
    with pytest.raises(ArragError) as error:
        import_faid(tmp_path / name, checkpoint, tmp_path / "out", k=K)
    assert not (tmp_path / "out").exists()
    return str(error.value)


def test_files_that_do_not_fit_are_refused_by_name(checkpoint, tmp_path):
    def changed(drop=(), **new):
        state = {n: w for n, w in published(True).items() if n not in drop}
        return refused(state | {n.replace("/", "."): w for n, w in new.items()}, checkpoint,
                       tmp_path)  # fmt: skip

    blender = "language_model.model.layers.0.blender"
    assert "missing: blocks.0.convs.hop2.1.bias" in changed(drop=[f"{blender}.conv22.bias"])
    assert "unknown weights model.language_model.layers.1.extra" in changed(
        **{"language_model.model.layers.1.extra": random(2)}
    )
    assert "blocks.0.merge is [3], wanted [2]" in changed(**{f"{blender}.conv_weights": random(3)})
    assert "k_proj.weight is not the checkpoint's" in changed(
        **{"language_model.model.layers.1.self_attn.k_proj.weight": random(HIDDEN, HIDDEN)}
    )
    bare = [name for name in published(True) if "blender" in name or "layernorm" in name]
    assert "holds no FAiD modules" in changed(drop=bare)
    lora = published(False)
    del lora[
        "language_model.base_model.model.model.layers.1.self_attn.q_proj.lora_B.default.weight"
    ]
    assert "lora_B' is missing" in refused(lora, checkpoint, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ArragError, match=r"model\.safetensors: cannot be read"):
        import_faid(tmp_path / "model.safetensors", checkpoint, tmp_path / "out")
    with pytest.raises(ArragError, match="no weights there"):
        import_faid(tmp_path / "empty", checkpoint, tmp_path / "out")


def test_a_pickle_is_read_as_weights_only(checkpoint, tmp_path):
    torch.save(published(True), tmp_path / "pytorch_model.bin")
    import_faid(tmp_path, checkpoint, tmp_path / "out", k=K)
    assert load_file(tmp_path / "out" / MODULES)
    torch.save({"weights": SimpleNamespace()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ArragError, match="not a file of weights alone"):
        import_faid(tmp_path, checkpoint, tmp_path / "other")


def test_the_command(checkpoint, tmp_path, capsys):
    save_file(published(True), tmp_path / "model.safetensors")
    command = ["convert", "faid", str(tmp_path / "model.safetensors"), "--checkpoint",
               str(checkpoint), "--out", str(tmp_path / "out"), "--k", "3", "--json"]  # fmt: skip
    assert main([*command, "--compat-infer"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["absent"] == "compat_infer"
    assert main(command) == 2
    assert "--out" in capsys.readouterr().err
