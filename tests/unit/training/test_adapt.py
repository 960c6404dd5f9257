"""Training adapters of the micro Janus: batches, gradients, what is trained and written."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from refusals import refused

from arrag.backbones.janus import JanusBackbone
from arrag.config.generators import Emu3, Janus, Showo
from arrag.config.training import FaidTraining, LoraSettings, Training
from arrag.methods.adapter_folder import merge_delta, read_adapter, save_delta
from arrag.training.adapt import compare_adapters, train_adapter
from arrag.training.neighbours import Neighbours
from arrag.training.trainer import Data, Trainer
from arrag.utils.errors import MismatchError, UsageError
from arrag.utils.hashing import tree_digest

COUNT, HELD_OUT = 16, 3
SMALL = Training(
    source="micro", pairs=COUNT, held_out=HELD_OUT, epochs=0.5, global_batch=4, learning_rate=1e-3,
    warmup=0.5, drop_prompt=0.3, mixed_precision="no",
    lora=LoraSettings(r=2, alpha=4.0, dropout=0.1), faid=FaidTraining(k=3, hops=[1], init_gain=0.5),
)  # fmt: skip


def janus(checkpoint):
    return Janus(kind="janus", checkpoint=checkpoint, guidance_scale=1.0)


def faid_data(pairs, index, retrieved):
    return Data(pairs, Neighbours(retrieved, pairs, SMALL.faid.k, index.digest))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, index, retrieved, micro_janus):
    """A FAiD adapter trained in one go, and its control."""
    folder = tmp_path_factory.mktemp("trained")
    for kind, data in (("faid", faid_data(pairs, index, retrieved)), ("finetune", Data(pairs))):
        train_adapter(
            kind, janus(micro_janus), SMALL, data, folder / kind, folder / f"{kind}.work",
            batch_size=4, cpu=True,
        )  # fmt: skip
    return folder


def test_an_adapter_s_folder(trained, micro_janus):
    for kind in ("faid", "finetune"):
        config = read_adapter(trained / kind, kind, tree_digest(micro_janus))
        assert config["steps"] == 2 and len(config["held_out"]["nats"]) == HELD_OUT
        assert (trained / kind / "adapter.safetensors").exists() == (kind == "faid")
        assert "nats a code" in (trained / kind / "README.md").read_text()


def test_comparison_of_two_adapters(trained, tmp_path):
    found = compare_adapters(trained / "faid", trained / "finetune")
    assert found["images"] == HELD_OUT
    assert found["difference"][0] == pytest.approx(found["first"][0] - found["second"][0], abs=2e-5)
    assert found["difference"][1] <= found["difference"][0] <= found["difference"][2]
    shutil.copytree(trained / "faid", tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["training"]["pairs_digest"] = "others"
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    with refused(MismatchError, field="pairs_digest"):
        compare_adapters(tmp_path / "other", trained / "finetune")


def trainer(kind, data, micro_janus, batch_size=4, **changes):
    accelerator = Accelerator(cpu=True)
    training = SMALL.model_copy(update=changes)
    return Trainer(kind, janus(micro_janus), training, 0, data, accelerator, batch_size)


def test_merged_weights_equal_those_trained(pairs, micro_janus, tmp_path):
    made = trainer("finetune", Data(pairs), micro_janus)
    with torch.no_grad():  # LoRA starts at zero, which would hide a transposed factor
        for name, weight in made.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
            elif weight.requires_grad:
                weight.copy_(weight.half())  # as it is stored
    save_delta(tmp_path / "delta.safetensors", made.model.delta())
    fresh = JanusBackbone.load(micro_janus)
    merge_delta(tmp_path / "delta.safetensors", fresh.model)
    made.model.eval()
    prompts, codes = [pairs.captions[0]], torch.from_numpy(pairs.store.grids([0]).astype(np.int64))
    ours = made.backbone.teacher_forced(prompts, codes)
    theirs, bare = (
        b.teacher_forced(prompts, codes) for b in (fresh, JanusBackbone.load(micro_janus))
    )
    assert (ours - theirs).abs().max() < 0.01 < (ours - bare).abs().max()


def test_the_control_sees_the_same_batches(pairs, index, retrieved, micro_janus):
    data = faid_data(pairs, index, retrieved)
    ours = trainer("faid", data, micro_janus)
    control = trainer("finetune", Data(pairs), micro_janus, batch_size=2)
    for step in range(3):
        places = np.arange(step * 4, step * 4 + 4)
        assert np.array_equal(ours._pairs_at(places), control._pairs_at(places))
        batch = ours._batch(ours._pairs_at(places), ours._dropped(places))
        other = control._batch(control._pairs_at(places), control._dropped(places))
        for name in ("ids", "mask", "codes"):
            assert torch.equal(batch[name], other[name])
        gone = torch.from_numpy(ours._dropped(places))
        assert (batch["retrieved"][gone] == -1).all()
    epoch = ours._pairs_at(np.arange(len(pairs.train)))
    assert sorted(epoch) == sorted(pairs.train)
    assert not np.array_equal(epoch, ours._pairs_at(np.arange(16, 32)))


def test_only_what_is_asked_for_is_trained(pairs, micro_janus):
    made = trainer("finetune", Data(pairs), micro_janus, head=False)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name and ".language_model." in name for name in names)
    assert {name.split(".lora_")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}
    made = trainer("finetune", Data(pairs), micro_janus, lora=None)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all(".generation_head." in name for name in names)


def test_trainings_that_cannot_be_are_refused(pairs, micro_janus, tiny_showo, tmp_path):
    other = SimpleNamespace(path=pairs.path, store=SimpleNamespace(grid=(24, 24), codebook=[]))
    showo = Showo(kind="showo", checkpoint=tiny_showo, guidance_scale=1.0)
    nothing = {"lora": None, "head": False}
    for generator, data, size, changes, error, path, field in (
        (janus(micro_janus), pairs, 3, {}, UsageError, None, "training.global_batch"),
        (janus(micro_janus), pairs, 4, nothing, UsageError, None, "training"),
        (Emu3(kind="emu3", checkpoint=tmp_path), pairs, 4, {}, UsageError, tmp_path, None),
        (showo, other, 4, {}, MismatchError, pairs.path, None),
    ):
        training = SMALL.model_copy(update=changes)
        with refused(error, path=path, field=field):
            Trainer("finetune", generator, training, 0, Data(data), Accelerator(cpu=True), size)
