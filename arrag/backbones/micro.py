"""The micro Janus and Show-o: classes, files and ids of the published ones at 1/250 the size."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

from arrag.backbones.showo_checkpoint import LLM, Vocabulary
from arrag.data.micro.world import CLASSES, COLORS, GRID, NUMBERS, PATCH, RELATIONS, SIZE, plural
from arrag.tokenizers.magvit2 import FOLDER, Magvit, MagvitConfig
from arrag.utils.files import write_json

CODES, CODE_DIM = 1024, 8  # of the micro Janus
HIDDEN, LAYERS, HEADS = 256, 4, 4  # of both
JANUS_MLP, SHOWO_MLP = 768, 1024

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

SHOWO_TOKENIZER = MagvitConfig(
    channels=32, bits=12, encoder_multipliers=(1, 2, 4), encoder_blocks=(1, 1, 2),
    decoder_multipliers=(1, 2, 4), decoder_blocks=(1, 1, 1),
)  # fmt: skip
TEXT_LENGTH = 15  # tokens of the longest prompt of the grammar with [bos] and [eos]; [t2i] is extra
END = "<|endoftext|>"  # phi-1.5 begins and ends a text with it


def grammar_words() -> list[str]:
    """Every word of the micro world's prompts and of Janus's template, sorted."""
    phrases = ["a an and photo of :", *CLASSES, *map(plural, CLASSES), *COLORS, *RELATIONS]
    return sorted({word for phrase in [*phrases, *NUMBERS.values()] for word in phrase.split()})


def _word_level(specials: list[str], first: list[str]) -> Tokenizer:
    """A tokenizer of the grammar's words, whose ids follow those of ``first``."""
    ids = {token: index for index, token in enumerate([*first, *grammar_words()])}
    core = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(specials)
    return core


def _half(model: nn.Module) -> dict[str, torch.Tensor]:
    """The weights in half precision."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if bad := [name for name, value in half.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{bad[0]} does not fit half precision")
    return half


def build_janus_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the micro world's grammar with Janus's special tokens."""
    specials = [*SPECIAL.values(), *MARKERS.values(), *ROLES]
    core, bos = _word_level(specials, specials), SPECIAL["bos_token"]
    core.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, specials.index(bos))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        padding_side="left",
        additional_special_tokens=list(ROLES),
        extra_special_tokens=MARKERS,
        **SPECIAL,
    )


def build_janus_config(tokenizer: PreTrainedTokenizerFast) -> JanusConfig:
    """The configuration of the micro Janus; every field exists in Janus-Pro-1B's own."""
    ids = {
        f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("pad", "bos", "eos")
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=JANUS_MLP,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=512, **ids,
    )  # fmt: skip
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
    image = tokenizer.convert_tokens_to_ids(MARKERS["image_token"])
    return JanusConfig(
        text_config=text, vision_config=vision, vq_config=vq, image_token_id=image, **ids
    )


def build_janus(seed: int) -> tuple[JanusForConditionalGeneration, PreTrainedTokenizerFast]:
    """A freshly initialised micro Janus and its tokenizer."""
    tokenizer = build_janus_tokenizer()
    torch.manual_seed(seed)
    config = build_janus_config(tokenizer)
    model = JanusForConditionalGeneration(config)
    ids = {name: getattr(config, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model.generation_config.update(**ids, guidance_scale=3.0, do_sample=True, top_k=0)
    boi = tokenizer.convert_tokens_to_ids(MARKERS["boi_token"])
    model.generation_config.generation_kwargs = {"boi_token_id": boi}
    return model, tokenizer


def save_janus(model: JanusForConditionalGeneration, tokenizer, out: Path) -> None:
    """Write the checkpoint directory in half precision, as safetensors."""
    # A saved generation_config marked as derived from the model config loses its extra fields.
    model.generation_config._from_model_config = False
    model.save_pretrained(out, state_dict=_half(model))
    tokenizer.save_pretrained(out)


def build_showo_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the micro world's grammar; the loader adds Show-o's markers."""
    core = _word_level([END], ["<unk>", END])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token=END, eos_token=END
    )


def build_showo(
    seed: int, bits: int = SHOWO_TOKENIZER.bits, **sizes: int
) -> tuple[PhiForCausalLM, Vocabulary]:
    """A freshly initialised language model and the ids it uses; ``sizes`` are PhiConfig's."""
    vocabulary = Vocabulary(len(build_showo_tokenizer()), 2**bits)
    torch.manual_seed(seed)
    defaults = {
        "hidden_size": HIDDEN, "intermediate_size": SHOWO_MLP, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }  # fmt: skip
    config = PhiConfig(
        **(defaults | sizes), vocab_size=vocabulary.size, max_position_embeddings=512,
        qk_layernorm=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return PhiForCausalLM(config), vocabulary


def save_showo(
    model: PhiForCausalLM, tokenizer: Magvit, out: Path, tokens: int = GRID * GRID
) -> None:
    """Write the checkpoint folder in half precision: Show-o, ``llm`` and ``magvitv2``."""
    text = build_showo_tokenizer()
    vocabulary = Vocabulary(len(text), 2**tokenizer.config.bits)
    (out / FOLDER).mkdir(parents=True)
    config = {
        "_class_name": "Showo",
        "vocab_size": vocabulary.size,
        "llm_vocab_size": vocabulary.text,
        "codebook_size": vocabulary.codes,
        "num_vq_tokens": tokens,
        "mask_token_id": vocabulary.mask,
        "max_text_length": TEXT_LENGTH,
        "w_clip_vit": False,
    }
    write_json(out / "config.json", config)
    sizes = {"_class_name": "MAGVITv2", **vars(tokenizer.config)}
    write_json(out / FOLDER / "config.json", sizes)
    save_file(_half(nn.ModuleDict({"showo": model})), out / "model.safetensors")
    save_file(_half(tokenizer), out / FOLDER / "model.safetensors")
    model.config.save_pretrained(out / LLM)
    text.save_pretrained(out / LLM)
