"""The micro Janus: the class, file formats and text template of Janus-Pro-1B at 1/250 the size."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from arrag.data.micro.world import CLASSES, COLORS, GRID, NUMBERS, PATCH, RELATIONS, SIZE, plural

CODES = 1024
CODE_DIM = 8
HIDDEN = 256
LAYERS = 4
HEADS = 4
MLP = 768

# The names Janus-Pro's own tokenizer gives to these roles.
SPECIAL = {
    "pad_token": "<｜▁pad▁｜>",
    "bos_token": "<｜begin▁of▁sentence｜>",
    "eos_token": "<｜end▁of▁sentence｜>",
    "unk_token": "<unk>",
}
MARKERS = {
    "boi_token": "<begin_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_placeholder>",
}
ROLES = ("<|User|>", "<|Assistant|>")


def grammar_words() -> list[str]:
    """Every word of the micro world's prompts and of Janus's template, sorted."""
    phrases = ["a an and photo of :", *CLASSES, *map(plural, CLASSES), *COLORS, *RELATIONS]
    return sorted({word for phrase in [*phrases, *NUMBERS.values()] for word in phrase.split()})


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the micro world's grammar with Janus's special tokens."""
    words = grammar_words()
    specials = [*SPECIAL.values(), *MARKERS.values(), *ROLES]
    vocabulary = {token: index for index, token in enumerate([*specials, *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL["unk_token"]))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(specials)
    bos = SPECIAL["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, vocabulary[bos])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        padding_side="left",
        additional_special_tokens=list(ROLES),
        extra_special_tokens=MARKERS,
        **SPECIAL,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> JanusConfig:
    """The configuration of the micro Janus; every field exists in Janus-Pro-1B's own."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    # The understanding tower is never run; it exists because the class has one.
    vision = JanusVisionConfig(
        image_size=SIZE, patch_size=PATCH, num_image_tokens=GRID * GRID, hidden_size=16,
        num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1.0, projection_dim=HIDDEN, depth=1,
    )  # fmt: skip
    vq = JanusVQVAEConfig(
        num_embeddings=CODES, embed_dim=CODE_DIM, latent_channels=64, base_channels=32,
        channel_multiplier=[1, 2, 4], num_res_blocks=1, projection_dim=HIDDEN,
        image_token_embed_dim=HIDDEN,
    )  # fmt: skip
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.convert_tokens_to_ids(MARKERS["image_token"]),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def build_model(seed: int) -> tuple[JanusForConditionalGeneration, PreTrainedTokenizerFast]:
    """A freshly initialised micro Janus and its tokenizer."""
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    model = JanusForConditionalGeneration(build_config(tokenizer))
    model.generation_config.update(
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        guidance_scale=3.0,
        do_sample=True,
        top_k=0,
    )
    model.generation_config.generation_kwargs = {
        "boi_token_id": tokenizer.convert_tokens_to_ids(MARKERS["boi_token"])
    }
    return model, tokenizer


def save(model: JanusForConditionalGeneration, tokenizer, out: Path) -> None:
    """Write the checkpoint directory in half precision, as safetensors."""
    half = {name: value.half() for name, value in model.state_dict().items()}
    if not all(torch.isfinite(value).all() for value in half.values()):
        raise ValueError("a weight does not fit half precision")
    # A saved generation_config marked as derived from the model config loses its extra fields.
    model.generation_config._from_model_config = False
    model.save_pretrained(out, state_dict=half)
    tokenizer.save_pretrained(out)
