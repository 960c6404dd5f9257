"""A decoding step of transformers' Llama by compiled kernels: one token a row, float64 on a CPU.

The weights are the model's, the cache is the one that the prompt's forward filled, and forward
hooks of layers and their attention are called as by transformers' forward. Other models, dtypes and
devices, and layers that fine-tuning wrapped, run in transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Cache, LlamaModel

from arrag.backbones._cpu_kernels import attention, feed_forward, multiply


def supports_steps(model: nn.Module) -> bool:
    """Whether :class:`LlamaSteps` supports the model."""
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
    """Whether its projections are linear layers without a bias, and not wrapped."""
    attn, mlp = layer.self_attn, layer.mlp
    products = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj]
    products += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    return all(type(product) is nn.Linear and product.bias is None for product in products)


class LlamaSteps:
    """Forwards of the tokens after a prompt.

    Args:
        model: A model that ``supports_steps``.
        head: The modules from hidden states to logits, in order.
        cache: Filled by the prompt.
        mask: Of the prompt, [R, T], R even; 0 at padding.
    """

    def __init__(
        self, model: LlamaModel, head: Sequence[nn.Module], cache: Cache, mask: torch.Tensor
    ) -> None:
        self.stop, self._norm = mask.shape[1], model.norm
        pairs = zip(model.layers, cache.layers, strict=True)
        self._layers = [_Layer(layer, cached) for layer, cached in pairs]
        self._head = [_Linear(m) if isinstance(m, nn.Linear) else m for m in head]
        capacity = cache.layers[0].capacity
        self._mask = np.ones((len(mask), capacity), bool)
        self._mask[:, : self.stop] = mask.numpy()
        self._positions = mask.sum(1).numpy()  # padding takes no position
        like, every = torch.empty(0, dtype=torch.float64), torch.arange(capacity)[None]
        self._rotary = [rotary[0].numpy() for rotary in model.rotary_emb(like, every)]  # [room, d]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [R, V] after the next token, whose inputs are [R, 1, D]."""
        rotary = tuple(rotary[self._positions] for rotary in self._rotary)
        for layer in self._layers:
            x = layer(x, rotary, self._mask, self.stop)
        self.stop, self._positions = self.stop + 1, self._positions + 1
        x = self._norm(x)[:, 0]
        for module in self._head:
            x = module(x)
        return x


class _Linear:
    """A linear layer by the kernel."""

    def __init__(self, layer: nn.Linear) -> None:
        (self.weight,), self.bias = _arrays(layer), layer.bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_empty(len(x), len(self.weight))
        multiply(x.numpy(), self.weight, out.numpy())
        return out if self.bias is None else out.add_(self.bias)


class _Layer:
    """A decoder layer by the kernels."""

    def __init__(self, layer: nn.Module, cached: Any) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.layer, self.scale = layer, float(attn.scaling)
        self.attn = _arrays(attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)
        self.mlp = _arrays(mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        norms = layer.input_layernorm, layer.post_attention_layernorm
        self.norms = [(norm.weight.detach().numpy(), norm.variance_epsilon) for norm in norms]
        self.keys, self.values = cached.buffer.numpy()

    def __call__(self, x: torch.Tensor, rotary: tuple, mask: np.ndarray, stop: int) -> torch.Tensor:
        normed, out = torch.empty_like(x), torch.empty_like(x)
        attention(
            _rows(x), _mean_squares(x), self.norms[0], self.attn, rotary, self.keys, self.values,
            mask, stop, self.scale, _rows(normed), _rows(out),
        )  # fmt: skip
        out, _ = _hooked(self.layer.self_attn, {"hidden_states": normed}, (out, None))
        x = x + out
        out = torch.empty_like(x)
        feed_forward(_rows(x), _mean_squares(x), self.norms[1], self.mlp, _rows(out))
        return _hooked(self.layer, {"hidden_states": x}, out)


def _hooked(module: nn.Module, kwargs: dict[str, Any], output: Any) -> Any:
    """What a call with keywords ``kwargs`` returns after the module's forward hooks."""
    for number, hook in module._forward_hooks.items():
        more = (kwargs,) if number in module._forward_hooks_with_kwargs else ()
        result = hook(module, (), *more, output)
        output = output if result is None else result
    return output


def _arrays(*layers: nn.Module) -> tuple[np.ndarray, ...]:
    """Weights, in float32 if that is exact (as of published ones): half the memory traffic."""
    weights = [layer.weight.detach() for layer in layers]
    narrow = [weight.float() for weight in weights]
    exact = all(torch.equal(a, b.double()) for a, b in zip(weights, narrow, strict=True))
    return tuple(weight.numpy() for weight in (narrow if exact else weights))


def _mean_squares(x: torch.Tensor) -> np.ndarray:
    """Means of squares as transformers' Llama computes them: [R, 1, D] -> float32 [R]."""
    return x.float().pow(2).mean(-1)[:, 0].numpy()


def _rows(x: torch.Tensor) -> np.ndarray:
    """[R, 1, D] -> [R, D], the same memory."""
    return x.numpy()[:, 0]
