"""Janus and Janus-Pro on transformers' own class, with its text template and guidance rows.

A backbone turns a prompt into a state, and a state and the codes so far into logits. It knows
nothing of retrieval. ``generate()`` of transformers is not used: its logits processors see the
rows before guidance and never the image tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, DynamicCache, JanusForConditionalGeneration

from arrag.errors import ArragError

TEMPLATE = "<|User|>: {prompt}\n\n<|Assistant|>:<begin_of_image>"


@dataclass
class State:
    """A batch of B prompts in decoding: their guidance pairs' cache, mask and next inputs."""

    cache: DynamicCache
    mask: torch.Tensor  # [2B, T]: 1 where there is a token; conditional rows first
    inputs: torch.Tensor | None  # [2B, t, D] embeddings not yet run
    guidance_scale: float


class JanusBackbone:
    """A Janus checkpoint for generation.

    grid: (H, W); codebook_size: V; context: which neighbours are decoded before a code.
    """

    context = "causal"

    def __init__(self, model: JanusForConditionalGeneration, tokenizer):
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        side = model.config.vq_config.num_patches
        self.grid = (side, side)
        self.codebook_size = model.config.vq_config.num_embeddings
        self.boi = tokenizer.convert_tokens_to_ids("<begin_of_image>")
        self.pad = model.generation_config.pad_token_id
        if self.pad is None:
            self.pad = tokenizer.pad_token_id

    @property
    def parameters(self) -> int:
        """Weights of the language model and its image embeddings and head; the paper's Params."""
        parts = self.model.model
        used = (
            parts.language_model, parts.generation_embeddings, parts.generation_aligner,
            parts.generation_head,
        )  # fmt: skip
        return sum(p.numel() for part in used for p in part.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def start(self, prompts: list[str], guidance_scale: float) -> State:
        """Tokenise B prompts into guidance pairs; nothing is run yet.

        Prompts of different lengths are padded on the left and the padding is masked. Raises
        ArragError for a word the tokenizer lacks.
        """
        self.check_words(prompts)
        texts = [TEMPLATE.format(prompt=prompt) for prompt in prompts]
        text = self.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        ids, mask = text["input_ids"], text["attention_mask"]  # [B, T]
        empty = unconditional(ids, self.tokenizer.bos_token_id, self.boi, self.pad)
        ids = torch.cat([ids, empty]).to(self.device)  # [2B, T]
        inputs = self.model.get_input_embeddings()(ids)  # [2B, T, D]
        return State(DynamicCache(), mask.repeat(2, 1).to(self.device), inputs, guidance_scale)

    def check_words(self, prompts: list[str]) -> None:
        """ArragError that names the words a word-level tokenizer does not know."""
        unknown = self.tokenizer.unk_token_id
        if unknown is None:
            return
        for prompt in prompts:
            if not prompt.strip():
                raise ArragError("prompt: empty; write what the image should show")
            words = prompt.split()
            ids = [self.tokenizer(w, add_special_tokens=False).input_ids for w in words]
            bad = [w for w, i in zip(words, ids, strict=True) if unknown in i]
            if bad:
                known = ", ".join(sorted(w for w in self.tokenizer.get_vocab() if w.isalpha()))
                raise ArragError(
                    f"prompt {prompt!r}: the model does not know {', '.join(map(repr, bad))}; "
                    f"its words are: {known}"
                )

    def logits(self, state: State, previous: torch.Tensor | None) -> torch.Tensor:
        """Logits of the next code, guidance applied: [B, V] in at least float32.

        ``previous``: the codes [B] chosen last, or None at the first position. Guidance is
        u + g (c - u) over the conditional c and unconditional u rows.
        """
        if previous is not None:
            pair = previous.repeat(2)[:, None]  # [2B, 1]
            state.inputs = self.model.prepare_embeddings_for_image_generation(pair)
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(pair), 1)], dim=1)
        length = state.inputs.shape[1]
        positions = (state.mask.cumsum(1) - 1).clamp(min=0)[:, -length:]
        hidden = self.model.model.language_model(
            inputs_embeds=state.inputs,
            attention_mask=state.mask,
            position_ids=positions,
            past_key_values=state.cache,
            use_cache=True,
        ).last_hidden_state[:, -1]  # [2B, D]
        state.inputs = None
        logits = self.model.model.generation_head(hidden)  # [2B, V]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        conditional, unconditional = logits.chunk(2)
        return unconditional + state.guidance_scale * (conditional - unconditional)


def unconditional(ids: torch.Tensor, bos: int, boi: int, pad: int) -> torch.Tensor:
    """The row without the prompt, of the same shape as ``ids``: all but BOS and BOI becomes pad.

    Those pads are attended to (deepseek-ai/Janus, generation_inference.py).
    """
    return torch.where((ids == bos) | (ids == boi), ids, pad)


def load_janus(checkpoint: str | Path, dtype: str = "float32", device: str = "cpu"):
    """Load a checkpoint directory as :class:`JanusBackbone`; ArragError if it cannot be read."""
    checkpoint = Path(checkpoint)
    if not (checkpoint / "config.json").is_file():
        raise ArragError(
            f"{checkpoint}: no config.json there; the micro checkpoint comes with the repository, "
            "others must be downloaded first"
        )
    try:
        model = JanusForConditionalGeneration.from_pretrained(
            checkpoint, dtype=getattr(torch, dtype), local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, local_files_only=True)
    except Exception as error:  # transformers, safetensors and json raise a dozen types here
        raise ArragError(
            f"{checkpoint}: cannot be read as a Janus checkpoint ({error}); restore its files "
            "(config.json, model.safetensors, tokenizer.json) and run again"
        ) from error
    return JanusBackbone(model.to(device), tokenizer)
