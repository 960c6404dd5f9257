"""Checkpoints of random weights, one a kind of backbone, in the layout that each is published in.

All draw 6 x 6 codes of 40 from text of any kind: their tokenizers are byte-level.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    Emu3Config,
    Emu3ForConditionalGeneration,
    Emu3ImageProcessor,
    JanusConfig,
    JanusForConditionalGeneration,
    LlamaConfig,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from arrag.backbones import emu3
from arrag.backbones.base import Backbone
from arrag.backbones.convert.janus import BOS, EOS, IMAGE, PAD
from arrag.backbones.llamagen.gpt import Gpt, GptConfig
from arrag.backbones.registry import BACKBONES, load_backbone
from arrag.backbones.showo_checkpoint import Vocabulary
from arrag.methods.decoding import decode_masked, decode_raster
from arrag.tokenizers.janus_vq import published_name
from arrag.tokenizers.magvit2 import Magvit, MagvitConfig
from arrag.utils.files import write_json

SIDE, CODES, HIDDEN, LAYERS, CONTEXT = 6, 40, 32, 4, 6000
N = SIDE * SIDE
VQ = {
    "num_embeddings": CODES, "embed_dim": 4, "latent_channels": 32, "base_channels": 32,
    "channel_multiplier": [1, 1], "num_res_blocks": 1,
}  # fmt: skip
GPT = GptConfig(
    grid=SIDE, width=HIDDEN, layers=LAYERS, heads=2, intermediate=48, codes=CODES,
    text_length=64, text_width=24,
)  # fmt: skip


def byte_level(specials: list[str], bos: str | None = None, eos: str | None = None, **roles):
    """A byte-level tokenizer whose specials come first, in this order; it adds bos and eos."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=280 + len(specials), initial_alphabet=alphabet, special_tokens=specials,
        show_progress=False,
    )  # fmt: skip
    core.train_from_iterator(["a photo of a dog and a cat"] * 9, trainer)
    around = " ".join(part for part in (bos, "$A", eos) if part)
    ends = [(part, core.token_to_id(part)) for part in (bos, eos) if part]
    core.post_processor = processors.TemplateProcessing(single=around, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=core, **roles)


@torch.no_grad()
def shake(model: torch.nn.Module, seed: int = 3) -> torch.nn.Module:
    """Weights off their tidy initial values, so that nothing is compared with nothing."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.add_(noise.to(parameter))
    return model


def janus_parts() -> tuple[JanusForConditionalGeneration, PreTrainedTokenizerFast]:
    """Model and tokenizer of a tiny Janus."""
    specials = [PAD, BOS, EOS, "<begin_of_image>", "<end_of_image>", IMAGE]
    tokenizer = byte_level(specials, bos=BOS, bos_token=BOS, eos_token=EOS, pad_token=PAD)
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HIDDEN, intermediate_size=48,
        num_hidden_layers=LAYERS, num_attention_heads=2, num_key_value_heads=2,
        max_position_embeddings=CONTEXT, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    vision = {
        "image_size": 2 * SIDE, "patch_size": 2, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_dim": HIDDEN, "depth": 2, "mlp_ratio": 1.0,
        "num_image_tokens": N,
    }  # fmt: skip
    vq = {**VQ, "projection_dim": HIDDEN, "image_token_embed_dim": HIDDEN}
    torch.manual_seed(0)
    model = JanusForConditionalGeneration(
        JanusConfig(
            text_config=text,
            vision_config=vision,
            vq_config=vq,
            image_token_id=5,
            tie_word_embeddings=False,
        )  # fmt: skip
    )
    model.generation_config.update(pad_token_id=0)
    model.generation_config.generation_kwargs = {"boi_token_id": 3}
    model.generation_config._from_model_config = False
    return shake(model), tokenizer


def write_janus(folder: Path) -> None:
    """transformers' layout."""
    model, tokenizer = janus_parts()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_showo(folder: Path) -> None:
    """Show-o's repository with its language model's and tokenizer's folders."""
    bits = 6
    tokenizer = byte_level(["<|endoftext|>"])
    tokenizer.add_special_tokens({"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"})
    words = Vocabulary(len(tokenizer), 2**bits)
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=words.size, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=2, max_position_embeddings=512, qk_layernorm=True,
    )  # fmt: skip
    model = shake(PhiForCausalLM(config))
    magvit = Magvit(MagvitConfig(32, bits, (1, 1), (1, 1), (1, 1), (1, 1)))
    about = {
        "_class_name": "Showo", "vocab_size": words.size, "llm_vocab_size": words.text,
        "codebook_size": words.codes, "num_vq_tokens": N, "max_text_length": 70,
    }  # fmt: skip
    (folder / "magvitv2").mkdir(parents=True)
    write_json(folder / "config.json", about)
    write_json(folder / "magvitv2/config.json", {"_class_name": "MAGVITv2", **vars(magvit.config)})
    save(folder / "model.safetensors", {f"showo.{k}": v for k, v in model.state_dict().items()})
    save(folder / "magvitv2/model.safetensors", magvit.state_dict())
    config.save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")


def published_vq() -> dict[str, torch.Tensor]:
    """A tokenizer under LlamaGen's names, the rows of its codebook of different lengths."""
    from transformers import JanusVQVAEConfig
    from transformers.models.janus.modeling_janus import JanusVQVAE

    torch.manual_seed(1)
    model = shake(JanusVQVAE(JanusVQVAEConfig(**VQ)))
    with torch.no_grad():
        rows = model.quantize.embedding.weight
        rows.copy_(torch.randn(rows.shape) * torch.linspace(0.2, 3, CODES)[:, None])
    return {published_name(name): value for name, value in model.state_dict().items()}


def llamagen_weights() -> dict[str, torch.Tensor]:
    """A language model under LlamaGen's names."""
    torch.manual_seed(2)
    return dict(shake(Gpt(GPT)).state_dict())


def write_t5(folder: Path) -> None:
    """A whole T5, decoder and head of its own, as flan-t5-xl is."""
    tokenizer = byte_level(
        ["<pad>", "</s>", "<unk>"], eos="</s>", pad_token="<pad>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    config = T5Config(
        vocab_size=len(tokenizer), d_model=GPT.text_width, d_kv=8, d_ff=32, num_layers=2,
        num_heads=2, pad_token_id=0, eos_token_id=1, tie_word_embeddings=False,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    torch.manual_seed(3)
    shake(T5ForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_llamagen(folder: Path) -> None:
    """What `arrag convert llamagen` makes, and the text encoder."""
    (folder / "vq").mkdir(parents=True)
    write_json(folder / "config.json", {"_class_name": "LlamaGen", **vars(GPT)})
    save(folder / "model.safetensors", llamagen_weights())
    write_json(folder / "vq/config.json", VQ)
    save(folder / "vq/model.safetensors", published_vq())
    write_t5(folder / "t5")


def amused_parts() -> dict:
    """Parts of a tiny AmusedPipeline, by the names of its folders."""
    from diffusers import AmusedScheduler, UVit2DModel, VQModel

    tokenizer = byte_level(
        ["<|startoftext|>", "<|endoftext|>"], bos="<|startoftext|>", eos="<|endoftext|>",
        bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        model_max_length=64,
    )  # fmt: skip
    torch.manual_seed(4)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=24, intermediate_size=32, num_hidden_layers=3,
        num_attention_heads=2, max_position_embeddings=64, projection_dim=16, bos_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    transformer = UVit2DModel(
        hidden_size=HIDDEN, cond_embed_dim=16, micro_cond_encode_dim=4, micro_cond_embed_dim=20,
        encoder_hidden_size=24, vocab_size=CODES + 4, codebook_size=CODES, in_channels=16,
        block_out_channels=16, num_res_blocks=1, block_num_heads=2, num_hidden_layers=LAYERS,
        num_attention_heads=2, intermediate_size=48, sample_size=SIDE,
    )  # fmt: skip
    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32), latent_channels=4, num_vq_embeddings=CODES,
        mid_block_add_attention=False, lookup_from_codebook=True,
    )  # fmt: skip
    with torch.no_grad():
        rows = shake(vqvae).quantize.embedding.weight
        rows.copy_(torch.randn(rows.shape) * torch.linspace(0.2, 3, CODES)[:, None])
    return {
        "transformer": shake(transformer), "text_encoder": shake(CLIPTextModelWithProjection(text)),
        "tokenizer": tokenizer, "vqvae": vqvae,
        "scheduler": AmusedScheduler(mask_token_id=CODES + 3),
    }  # fmt: skip


def write_amused(folder: Path) -> None:
    """diffusers' layout."""
    for name, part in amused_parts().items():
        part.save_pretrained(folder / name)
    write_json(folder / "model_index.json", {"_class_name": "AmusedPipeline"})


def emu3_parts() -> tuple[Emu3ForConditionalGeneration, PreTrainedTokenizerFast]:
    """Model and tokenizer of a tiny Emu3."""
    specials = ["<|endoftext|>", emu3.BOS, "<|extra_204|>", emu3.BOI, "<|image end|>", emu3.IMAGE]
    specials += [emu3.ROW_END, "<|extra_201|>", "<image>"]
    specials += [emu3.CODE.format(code) for code in range(CODES)]
    tokenizer = byte_level(
        specials, bos_token=emu3.BOS, eos_token="<|extra_204|>", pad_token="<|endoftext|>"
    )
    text = {
        "vocab_size": len(tokenizer), "hidden_size": HIDDEN, "intermediate_size": 48,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, "attention_dropout": 0.0,
    }  # fmt: skip
    vq = {
        "codebook_size": CODES, "base_channels": 32, "channel_multiplier": [1, 1],
        "num_res_blocks": 1, "attn_resolutions": [], "hidden_size": 32,
    }  # fmt: skip
    torch.manual_seed(5)
    config = Emu3Config(
        text_config=text, vq_config=vq, vocabulary_map=tokenizer.get_vocab(),
        image_area=(2 * SIDE) ** 2,
    )  # fmt: skip
    model = shake(Emu3ForConditionalGeneration(config))
    with torch.no_grad():
        rows = model.model.vqmodel.quantize.embedding.weight
        rows.copy_(torch.randn(rows.shape) * torch.linspace(0.2, 3, CODES)[:, None])
    return model, tokenizer


def write_emu3(folder: Path) -> None:
    """transformers' layout."""
    model, tokenizer = emu3_parts()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    Emu3ImageProcessor(image_mean=[0.5, 0.4, 0.3], image_std=[0.5, 0.3, 0.2]).save_pretrained(
        folder
    )


def save(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Write weights, each in memory of its own."""
    save_file({name: value.clone().contiguous() for name, value in state.items()}, path)


class Kind(NamedTuple):
    """How a kind's checkpoint is written.

    weights: folder of the generator's weights in the checkpoint; tokenizer: of its text tokenizer;
    truncates: whether a long prompt is truncated, else it is refused.
    """

    name: str
    write: Callable[[Path], None]
    weights: str = "."
    tokenizer: str = "."
    truncates: bool = False

    def load(self, folder: Path, dtype: str = "float32") -> Backbone:
        """Load the checkpoint in ``folder``."""
        return load_backbone(self.name, folder, dtype)

    @property
    def decode(self) -> Callable[..., torch.Tensor]:
        """The decoding loop."""
        raster = BACKBONES.get(self.name).decoding == "raster"
        return decode_raster if raster else decode_masked


KINDS = {
    kind.name: kind
    for kind in (
        Kind("janus", write_janus),
        Kind("showo", write_showo, tokenizer="llm", truncates=True),
        Kind("llamagen", write_llamagen, tokenizer="t5", truncates=True),
        Kind("amused", write_amused, "transformer", tokenizer="tokenizer", truncates=True),
        Kind("emu3", write_emu3),
    )
}
