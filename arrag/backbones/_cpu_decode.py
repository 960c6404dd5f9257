"""A decoding step of transformers' Llama by compiled kernels: one token a row, in float64 on a CPU.

The weights are the model's own, the cache is the one that the prompt's forward filled, and forward
hooks of layers and their attention are called as transformers' own forward would. Everything else
(other models, arithmetic, devices, layers that fine-tuning wrapped) is transformers' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache, LlamaModel

from arrag.backbones._cpu_kernels import attention, feed_forward, multiply


def has_steps(model: nn.Module) -> bool:
    """Whether :class:`LlamaSteps` computes what the model would."""
    if type(model) is not LlamaModel or model.device.type != "cpu":
        return False
    config, modules = model.config, [m for layer in model.layers for m in layer.modules()]
    return (
        all(p.dtype == torch.float64 and p.is_contiguous() for p in model.layers.parameters())
        and all(_plain(layer) for layer in model.layers)
        and not any(m._forward_pre_hooks for m in modules)
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] == "default"
    )


def _plain(layer: nn.Module) -> bool:
    """Whether its products are linear layers without a bias, and nothing that wraps them."""
    attends, feeds = layer.self_attn, layer.mlp
    products = [attends.q_proj, attends.k_proj, attends.v_proj, attends.o_proj]
    products += [feeds.gate_proj, feeds.up_proj, feeds.down_proj]
    return all(type(product) is nn.Linear and product.bias is None for product in products)


class LlamaSteps:
    """The tokens after a prompt of R rows, R even.

    head: the modules, one after the other, that make logits of hidden states. cache: filled by the
    prompt; mask: [R, T], where it has tokens.
    """

    def __init__(
        self, model: LlamaModel, head: Sequence[nn.Module], cache: Cache, mask: torch.Tensor
    ) -> None:
        self.stop, self._norm = mask.shape[1], model.norm
        pairs = zip(model.layers, cache.layers, strict=True)
        self._layers = [_Layer(layer, held) for layer, held in pairs]
        self._head = [_Linear(m) if isinstance(m, nn.Linear) else m for m in head]
        room = cache.layers[0].room
        self._seen = np.ones((len(mask), room), bool)
        self._seen[:, : self.stop] = mask.numpy()
        self._places = mask.sum(1).numpy()  # padding takes no position
        like, every = torch.empty(0, dtype=torch.float64), torch.arange(room)[None]
        self._turns = [turns[0].numpy() for turns in model.rotary_emb(like, every)]  # [room, d]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] that follow the next token, whose inputs are [R, 1, D]."""
        turns = tuple(turns[self._places] for turns in self._turns)
        for layer in self._layers:
            x = layer(x, turns, self._seen, self.stop)
        self.stop, self._places = self.stop + 1, self._places + 1
        x = self._norm(x)[:, 0]
        for module in self._head:
            x = module(x)
        return x


class _Linear:
    """A linear layer as the kernel takes it."""

    def __init__(self, layer: nn.Linear) -> None:
        (self.weight,), self.bias = _arrays(layer), layer.bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(len(x), len(self.weight))
        multiply(x.numpy(), self.weight, out.numpy())
        return out if self.bias is None else out.add_(self.bias)


class _Layer:
    """A decoder layer's weights and cache as the kernels take them."""

    def __init__(self, layer: nn.Module, held: Any) -> None:
        attends, feeds = layer.self_attn, layer.mlp
        self.layer, self.scale = layer, float(attends.scaling)
        self.attends = _arrays(attends.q_proj, attends.k_proj, attends.v_proj, attends.o_proj)
        self.feeds = _arrays(feeds.gate_proj, feeds.up_proj, feeds.down_proj)
        norms = layer.input_layernorm, layer.post_attention_layernorm
        self.norms = [(norm.weight.detach().numpy(), norm.variance_epsilon) for norm in norms]
        self.keys, self.values = held.reserved.numpy()

    def __call__(self, x: torch.Tensor, turns: tuple, seen: np.ndarray, stop: int) -> torch.Tensor:
        normed, out = torch.empty_like(x), torch.empty_like(x)
        attention(
            _rows(x), _squares(x), self.norms[0], self.attends, turns, self.keys, self.values,
            seen, stop, self.scale, _rows(normed), _rows(out),
        )  # fmt: skip
        out, _ = _hooked(self.layer.self_attn, {"hidden_states": normed}, (out, None))
        x = x + out
        out = torch.empty_like(x)
        feed_forward(_rows(x), _squares(x), self.norms[1], self.feeds, _rows(out))
        return _hooked(self.layer, {"hidden_states": x}, out)


def _hooked(module: nn.Module, given: dict[str, Any], output: Any) -> Any:
    """What a call with keywords ``given`` returns after the module's forward hooks."""
    for number, hook in module._forward_hooks.items():
        more = (given,) if number in module._forward_hooks_with_kwargs else ()
        result = hook(module, (), *more, output)
        output = output if result is None else result
    return output


def _arrays(*layers: nn.Module) -> tuple[np.ndarray, ...]:
    """Weights, in float32 if that holds all of them exactly, as published ones: half to read."""
    weights = [layer.weight.detach() for layer in layers]
    narrow = [weight.float() for weight in weights]
    exact = all(torch.equal(a, b.double()) for a, b in zip(weights, narrow, strict=True))
    return tuple(weight.numpy() for weight in (narrow if exact else weights))


def _squares(x: torch.Tensor) -> np.ndarray:
    """Means of squares as transformers' Llama takes them: float32 [R] of [R, 1, D]."""
    return x.float().pow(2).mean(-1)[:, 0].numpy()


def _rows(x: torch.Tensor) -> np.ndarray:
    """[R, 1, D] -> [R, D], the same memory."""
    return x.numpy()[:, 0]
