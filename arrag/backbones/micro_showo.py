"""The micro Show-o: the folder, classes and id layout of the published one at 1/250 the size."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PhiConfig, PhiForCausalLM, PreTrainedTokenizerFast

from arrag.backbones.micro_janus import grammar_words
from arrag.backbones.showo_checkpoint import LLM, Vocabulary
from arrag.data.micro.world import GRID
from arrag.tokenizers.magvit2 import FOLDER, Magvit, MagvitConfig
from arrag.utils.files import write_json

TOKENIZER = MagvitConfig(
    channels=32,
    bits=12,
    encoder_multipliers=(1, 2, 4),
    encoder_blocks=(1, 1, 2),
    decoder_multipliers=(1, 2, 4),
    decoder_blocks=(1, 1, 1),
)
TEXT_LENGTH = 15  # tokens of the longest prompt of the grammar with [bos] and [eos]; [t2i] is extra
HIDDEN, LAYERS, HEADS, MLP = 256, 4, 4, 1024
END = "<|endoftext|>"  # phi-1.5 begins and ends a text with it


def build_text_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer of the micro world's grammar; the loader adds Show-o's markers."""
    words = ["<unk>", END, *grammar_words()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens([END])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", bos_token=END, eos_token=END
    )


def build_showo(
    seed: int, bits: int = TOKENIZER.bits, **sizes: int
) -> tuple[PhiForCausalLM, Vocabulary]:
    """A freshly initialised language model and the ids it uses; ``sizes`` are PhiConfig's."""
    vocabulary = Vocabulary(len(build_text_tokenizer()), 2**bits)
    torch.manual_seed(seed)
    defaults = {
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
    }
    config = PhiConfig(
        **(defaults | sizes),
        vocab_size=vocabulary.size,
        max_position_embeddings=512,
        qk_layernorm=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return PhiForCausalLM(config), vocabulary


def save(model: PhiForCausalLM, tokenizer: Magvit, out: Path, tokens: int = GRID * GRID) -> None:
    """Write the checkpoint folder in half precision: Show-o, ``llm`` and ``magvitv2``."""
    text = build_text_tokenizer()
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
    _save_half(nn.ModuleDict({"showo": model}), out / "model.safetensors")
    _save_half(tokenizer, out / FOLDER / "model.safetensors")
    model.config.save_pretrained(out / LLM)
    text.save_pretrained(out / LLM)


def _save_half(model: nn.Module, path: Path) -> None:
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    if not all(torch.isfinite(value).all() for value in half.values()):
        raise ValueError(f"a weight does not fit half precision: {path}")
    save_file(half, path)
