"""Compiled decoding steps against transformers' own forward."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel

from arrag.backbones._cpu_decode import LlamaSteps, supports_steps
from arrag.backbones._cpu_kernels import multiply
from arrag.backbones.causal import preallocated_cache, run_decoder

ROWS, PROMPT, MORE = 4, 5, 6
SIZES = {"hidden_size": 32, "intermediate_size": 44, "vocab_size": 8}


def llama(heads=4, groups=2, **more):
    """A Llama of random weights, none left at a tidy value."""
    torch.manual_seed(1)
    config = LlamaConfig(
        **SIZES, num_hidden_layers=2, num_attention_heads=heads, num_key_value_heads=groups, **more
    )
    model = LlamaModel(config).double().eval().requires_grad_(False)
    for weight in model.parameters():
        weight.add_(torch.randn_like(weight), alpha=0.2)
    return model


@pytest.mark.parametrize(("heads", "groups", "narrow"), [(4, 4, True), (4, 2, False), (1, 1, True)])
@torch.inference_mode()
def test_steps_equal_the_whole_sequence(heads, groups, narrow):
    model = llama(heads, groups)
    head = [nn.Linear(32, 12).double(), nn.GELU(), nn.Linear(12, 10, bias=False).double()]
    if narrow:  # as weights that were read from a file of lower precision
        for weight in model.parameters():
            weight.copy_(weight.float())
    inputs = torch.randn(ROWS, PROMPT + MORE, 32, dtype=torch.float64)
    mask = torch.ones(ROWS, PROMPT + MORE, dtype=torch.long)
    mask[1, :2] = mask[2, :4] = 0  # prompts of different lengths
    mask[3, 1:3] = 0  # a prefix, then padding
    expected = nn.Sequential(*head)(run_decoder(model, inputs, mask, None))[:, PROMPT:]

    cache = preallocated_cache(2, PROMPT + MORE)
    run_decoder(model, inputs[:, :PROMPT], mask[:, :PROMPT], cache)
    steps = LlamaSteps(model, head, cache, mask[:, :PROMPT])
    found = [steps(inputs[:, t : t + 1]) for t in range(PROMPT, PROMPT + MORE)]
    torch.testing.assert_close(torch.stack(found, 1), expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_hooks_see_and_change_what_they_do_in_the_model():
    model = llama()
    inputs = torch.randn(ROWS, PROMPT + 1, 32, dtype=torch.float64)
    mask, seen = torch.ones(ROWS, PROMPT + 1, dtype=torch.long), []

    def attended(module, args, kwargs, output):
        seen.append(kwargs["hidden_states"][:, -1])
        return (output[0] + 0.5, *output[1:])

    model.layers[0].self_attn.register_forward_hook(attended, with_kwargs=True)
    model.layers[1].register_forward_hook(lambda module, args, output: 2 * output)
    expected = run_decoder(model, inputs, mask, None)[:, -1]
    cache = preallocated_cache(2, PROMPT + 1)
    run_decoder(model, inputs[:, :PROMPT], mask[:, :PROMPT], cache)
    found = LlamaSteps(model, [], cache, mask[:, :PROMPT])(inputs[:, PROMPT:])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[2], seen[0], rtol=1e-5, atol=1e-6)


def test_a_product_does_not_depend_on_the_other_rows():
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((8, 37)), rng.standard_normal((11, 37)).astype(np.float32)
    together, alone = np.empty((8, 11)), np.empty((2, 11))
    multiply(x, weight, together)
    np.testing.assert_allclose(together, x @ weight.T.astype(np.float64), rtol=1e-12, atol=1e-12)
    for rows in ([0, 1], [7, 2], [5, 5]):
        multiply(x[rows], weight, alone)
        assert np.array_equal(alone, together[rows])


def test_other_models_are_left_to_transformers():
    assert supports_steps(llama())
    assert not supports_steps(llama().float())
    assert not supports_steps(llama(attention_bias=True))
    assert not supports_steps(llama(hidden_act="gelu"))
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    assert not supports_steps(llama(rope_parameters=scaled))
    wrapped = llama()  # as LoRA does
    wrapped.layers[1].mlp.up_proj = nn.Sequential(wrapped.layers[1].mlp.up_proj)
    assert not supports_steps(wrapped)
