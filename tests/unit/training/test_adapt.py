"""Training adapters of the micro Janus: batches, gradients, what is trained and written."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from arrag.backbones.janus import JanusBackbone
from arrag.config.generators import Emu3, Janus, Showo
from arrag.config.training import FaidTraining, LoraSettings, Training
from arrag.methods.adapter_folder import merge_delta, read_adapter, save_delta
from arrag.training.adapt import compare_adapters, train_adapter
from arrag.training.neighbours import Neighbours
from arrag.training.trainer import Data, Trainer
from arrag.utils.errors import ArragError, MismatchError, UsageError
from arrag.utils.hashing import tree_digest

COUNT, HELD_OUT = 16, 3
SMALL = Training(
    source="micro", pairs=COUNT, held_out=HELD_OUT, epochs=1.25, global_batch=4, learning_rate=1e-3,
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
        assert config["steps"] == 5 and len(config["held_out"]["nats"]) == HELD_OUT
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
    with pytest.raises(MismatchError) as error:
        compare_adapters(tmp_path / "other", trained / "finetune")
    assert error.value.field == "pairs_digest"


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


def test_gradients_do_not_depend_on_how_a_batch_is_cut(pairs, index, retrieved, micro_janus):
    data = faid_data(pairs, index, retrieved)
    still = LoraSettings(r=2, alpha=4.0, dropout=0.0)
    gradients = []
    for size in (4, 2):
        made = trainer("faid", data, micro_janus, batch_size=size, lora=still)
        assert made.grad_accum_steps == 4 // size
        for i in range(made.grad_accum_steps):
            (made.loss_fn(made.grad_accum_steps + i) / made.grad_accum_steps).backward()
        trained = [p for p in made.model.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    assert torch.allclose(*gradients, atol=1e-5 * gradients[0].abs().max())


def test_only_what_is_asked_for_is_trained(pairs, micro_janus):
    made = trainer("finetune", Data(pairs), micro_janus, head=False)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name and ".language_model." in name for name in names)
    assert {name.split(".lora_")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}
    made = trainer("finetune", Data(pairs), micro_janus, lora=None)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all(".generation_head." in name for name in names)
    with pytest.raises(UsageError):
        trainer("finetune", Data(pairs), micro_janus, lora=None, head=False)


def test_a_batch_that_cannot_be_cut_evenly(pairs, micro_janus):
    with pytest.raises(UsageError) as error:
        trainer("finetune", Data(pairs), micro_janus, batch_size=3)
    assert error.value.field == "training.global_batch"


def test_pairs_of_another_generator(pairs, tiny_showo):
    generator = Showo(kind="showo", checkpoint=tiny_showo, guidance_scale=1.0)
    other = SimpleNamespace(path=pairs.path, store=SimpleNamespace(grid=(24, 24), codebook=[]))
    with pytest.raises(MismatchError) as error:
        Trainer("finetune", generator, SMALL, 0, Data(other), Accelerator(cpu=True), 4)
    assert error.value.path == pairs.path


def test_generators_without_adapters_are_refused(pairs, tmp_path):
    generator = Emu3(kind="emu3", checkpoint=tmp_path)
    with pytest.raises(UsageError):
        Trainer("finetune", generator, SMALL, 0, Data(pairs), Accelerator(cpu=True), 4)


def test_nan_ends_the_training(pairs, micro_janus, tmp_path):
    mad = SMALL.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(ArragError):
        train_adapter(
            "finetune", janus(micro_janus), mad, Data(pairs), tmp_path / "out", tmp_path / "work",
            batch_size=4, cpu=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
