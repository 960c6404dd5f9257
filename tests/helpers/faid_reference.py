"""FAiD as its definition reads: one image, one position, one patch and one scale at a time.

Small generators of three architectures to attach it to, and nothing in common with the adapter
but the names of its weights.
"""

import torch
import torch.nn.functional as F
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    PhiConfig,
    PhiForCausalLM,
)

from arrag.backbones import micro
from arrag.backbones.base import ImageTokenSpans, TokenSpan
from arrag.backbones.janus import JanusBackbone

SIDE, CODES, HIDDEN = 5, 30, 16


def tiny_janus(dtype=torch.float64, layers=4):
    """Random weights in the architecture of Janus-Pro: 4 layers, 5 x 5 codes."""
    tokenizer = micro.build_janus_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=16,
        num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=128,
    )  # fmt: skip
    vision = {
        "image_size": SIDE * 4, "patch_size": 4, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": HIDDEN, "depth": 1, "mlp_ratio": 1.0,
    }  # fmt: skip
    vq = {
        "num_embeddings": CODES, "embed_dim": 4, "latent_channels": 32, "base_channels": 32,
        "channel_multiplier": [1], "num_res_blocks": 1, "projection_dim": HIDDEN,
        "image_token_embed_dim": HIDDEN, "num_patches": SIDE,
    }  # fmt: skip
    torch.manual_seed(3)
    config = JanusConfig(text_config=text, vision_config=vision, vq_config=vq)
    model = JanusForConditionalGeneration(config)
    _shake(model)
    return JanusBackbone(model.to(dtype), tokenizer)


def _shake(model):
    """Norms and biases off their tidy initial values, weights of a size that matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


class TinyShowo:
    """Show-o's language model at a tiny size: stock Phi, text causal, image block bidirectional.

    A forward takes all codes at once, unknown ones as the mask token; no shift.
    """

    context = "full"

    def __init__(self, layers=4):
        self.text, self.grid, self.codebook_size = 9, (4, SIDE), CODES
        torch.manual_seed(4)
        config = PhiConfig(
            vocab_size=self.text + CODES + 1, hidden_size=HIDDEN, intermediate_size=16,
            num_hidden_layers=layers, num_attention_heads=2, qk_layernorm=True,
            partial_rotary_factor=0.5, max_position_embeddings=64,
        )  # fmt: skip
        self.model = PhiForCausalLM(config).double().eval().requires_grad_(False)
        _shake(self.model)
        self.hidden_size, self.device, self.spans = HIDDEN, torch.device("cpu"), None
        self.decoder_layers = list(self.model.model.layers)

    def embed_codes(self, codes):
        return self.model.get_input_embeddings()(codes + self.text)

    def masked(self, ids, codes, known, unconditional=0):
        """ids [R, T], codes and known [B, H, W] -> logits [R, N, V] of rows without padding."""
        batch, count = len(codes), self.grid[0] * self.grid[1]
        codes = torch.where(known, codes + self.text, self.text + CODES).flatten(1)
        ids = torch.cat([ids, torch.cat([codes, codes[:unconditional]])], dim=1)
        length = ids.shape[1]
        sees = torch.ones(length, length, dtype=torch.bool).tril()
        sees[-count:, -count:] = True
        self.spans = ImageTokenSpans(batch, *[TokenSpan(length - count, 0, count)] * 2)
        logits = self.model(ids, attention_mask=sees[None, None].expand(len(ids), 1, -1, -1)).logits
        return logits[:, -count:, self.text : self.text + CODES]


class Reference:
    """Loops in place of an adapter; attach with ``with``."""

    def __init__(self, adapter, backbone, retrieved, positions=None, known=None):
        self.adapter, self.backbone, self.retrieved, self.known = (
            adapter, backbone, retrieved, known,
        )  # fmt: skip
        count = backbone.grid[0] * backbone.grid[1]
        self.positions = list(range(count)) if positions is None else positions
        self.carried, self.handles = {}, []

    def __enter__(self):
        for layer, block in self.adapter.blocks.items():
            site = self.backbone.decoder_layers[int(layer)]

            def hook(attention, args, kwargs, output, block=block, layer=int(layer)):
                self.added = self.contributions(block, layer, kwargs["hidden_states"])
                if self.adapter.settings.site == "post_layer":
                    return None
                return (output[0] + self.added, *output[1:])

            self.handles.append(site.self_attn.register_forward_hook(hook, with_kwargs=True))
            if self.adapter.settings.site == "post_layer":
                self.handles.append(site.register_forward_hook(lambda m, a, out: out + self.added))

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()

    def contributions(self, block, layer, hidden):
        settings, (height, width) = self.adapter.settings, self.backbone.grid
        rows, inputs, targets = self.backbone.spans
        added = torch.zeros_like(hidden)
        for image in range(rows):
            state = {
                inputs.position + i: hidden[image, inputs.index + i] for i in range(inputs.count)
            }
            for p, t in enumerate(self.positions):
                total, counted = torch.zeros(HIDDEN, dtype=hidden.dtype), 0
                for k in range(settings.k):
                    code = int(self.retrieved[image, p, k])
                    if code < 0 and settings.absent == "skip":
                        continue
                    if layer == 0:
                        patch = self.backbone.embed_codes(torch.tensor(max(code, 0)))
                    else:
                        patch = self.carried[image, t, k]
                    if code < 0 and (layer == 0 or settings.absent == "zero"):
                        patch = torch.zeros_like(patch)
                    patch = patch / (patch.square().mean() + settings.eps).sqrt() * block.norm
                    scales = []
                    for hop in settings.hops:
                        window = torch.zeros(HIDDEN, 2 * hop + 1, 2 * hop + 1, dtype=hidden.dtype)
                        for dr in range(-hop, hop + 1):
                            for dc in range(-hop, hop + 1):
                                row, col = t // width + dr, t % width + dc
                                inside = 0 <= row < height and 0 <= col < width
                                if inside and self.is_known(image, row * width + col, t):
                                    window[:, dr + hop, dc + hop] = state[row * width + col]
                        window[:, hop, hop] = patch
                        first, second = block.convs[f"hop{hop}"]
                        inner = F.conv2d(window[None], first.weight, first.bias)
                        scales.append(F.conv2d(inner, second.weight, second.bias).flatten())
                    refined = sum(
                        w * s for w, s in zip(self.weights(block, settings), scales, strict=True)
                    )
                    self.carried[image, t, k] = self.score(block, settings, refined) * refined
                    total, counted = total + self.carried[image, t, k], counted + 1
                if counted and settings.pool == "mean":
                    total = total / counted
                added[image, targets.index + t - targets.position] += total
        return added

    def is_known(self, image, position, t):
        """Whether a state may be looked at when ``t`` is predicted."""
        if self.adapter.settings.context == "causal":
            return position < t
        return position != t and bool(self.known[image].flatten()[position])

    def weights(self, block, settings):
        if len(settings.hops) == 1:
            return [1.0]
        if settings.merge == "mean":
            return [1 / len(settings.hops)] * len(settings.hops)
        return block.merge.softmax(0) if settings.merge == "softmax" else block.merge

    def score(self, block, settings, refined):
        if settings.score == "linear":
            return block.score.weight[0] @ refined + block.score.bias[0]
        first, last = block.score[0], block.score[2]
        middle = torch.relu(first.weight @ refined + first.bias)
        return torch.sigmoid(last.weight[0] @ middle + last.bias[0])
