"""The folder of an adapter: whose it is, and what it changes in a backbone."""

import pytest
import torch
from torch import nn

from arrag.methods.adapter_folder import merge_delta, read_adapter, save_config, save_delta
from arrag.utils.errors import ArragError


@pytest.mark.parametrize("kind, backbone", [("finetune", "mine"), ("faid", "another")])
def test_adapters_of_another_kind_or_backbone_are_refused(tmp_path, kind, backbone):
    save_config(tmp_path, "faid", "mine", {"steps": 3})
    assert read_adapter(tmp_path, "faid", "mine")["steps"] == 3
    with pytest.raises(ArragError):
        read_adapter(tmp_path, kind, backbone)
    with pytest.raises(ArragError):
        read_adapter(tmp_path / "nowhere", "faid", "mine")


@pytest.mark.parametrize(
    "delta",
    [
        {"weight": torch.ones(2, 4), "nothing": torch.ones(2)},
        {"weight": torch.ones(2, 2)},
        {"weight.lora_a": torch.ones(2, 4)},
    ],
    ids=["unknown", "shape", "half of LoRA"],
)
def test_a_delta_of_another_model_changes_nothing(tmp_path, delta):
    model = nn.Linear(4, 2)
    before = model.weight.clone()
    save_delta(tmp_path / "delta.safetensors", delta)
    with pytest.raises(ArragError):
        merge_delta(tmp_path / "delta.safetensors", model)
    assert torch.equal(model.weight, before)
