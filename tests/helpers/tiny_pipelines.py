"""Pipelines of every class that the tables compare with: real ones, tiny, of random weights."""

import json
from pathlib import Path

import diffusers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig

WIDTH = 32  # of a text's features


def save_tiny(name: str, out: Path) -> Path:
    """Write the tiny pipeline of a class to a folder; SDXL's has an image encoder beside it."""
    torch.manual_seed(0)
    parts = PARTS[name]()
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            stir(part)
    getattr(diffusers, name)(**parts).save_pretrained(out, safe_serialization=True)
    return out


def save_rdm(out: Path, features: int, decoder: torch.nn.Module | None = None) -> Path:
    """Write a tiny RDM that attends to features of so many numbers."""
    torch.manual_seed(0)
    parts = {"unet": unet(features), "vae": decoder or vae(), "scheduler": ddim()}
    for name, part in parts.items():
        if isinstance(part, torch.nn.Module):
            stir(part)
        part.save_pretrained(out / name)
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    index |= {"_class_name": "RDMPipeline", "clip": ["transformers", "CLIPModel"]}
    (out / "model_index.json").write_text(json.dumps(index))
    return out


def save_imagerag(out: Path) -> Path:
    """Write a tiny SDXL, an image encoder and an IP-Adapter of either kind."""
    save_tiny("StableDiffusionXLPipeline", out / "sdxl")
    denoiser = diffusers.UNet2DConditionModel.from_pretrained(out / "sdxl" / "unet")
    torch.manual_seed(1)
    image_encoder().save_pretrained(out / "encoder")
    save_file(ip_adapter(denoiser, plus=False), out / "bare.safetensors")
    save_file(ip_adapter(denoiser, plus=True), out / "plus.safetensors")
    return out


def stir(model: torch.nn.Module) -> None:
    """Move every weight a little: some begin as zero and would hide what depends on them."""
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape))


def unet(context: int = WIDTH, **more) -> diffusers.UNet2DConditionModel:
    """A denoiser of latents [4, 4, 4]."""
    settings = dict(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=4, in_channels=4,
        out_channels=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=2,
        attention_head_dim=4, cross_attention_dim=context,
    )  # fmt: skip
    return diffusers.UNet2DConditionModel(**settings | more)


def vae(latents: int = 4, **more) -> diffusers.AutoencoderKL:
    """Pixels from latents of an eighth of their size."""
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=latents, block_out_channels=(8,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2, layers_per_block=1, sample_size=32, **more,
    )  # fmt: skip


def ddim(**more) -> diffusers.DDIMScheduler:
    """The schedule of Stable Diffusion."""
    return diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1, **more,
    )  # fmt: skip


def clip_tokenizer() -> transformers.CLIPTokenizer:
    """One token a byte: any text can be read, and 77 letters are too many."""
    letters = sorted(ByteLevel.alphabet())
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def clip_text(kind=transformers.CLIPTextModel, projection: int = WIDTH):
    """A text encoder for ``clip_tokenizer``."""
    config = CLIPTextConfig(
        vocab_size=514, hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2,
        num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        projection_dim=projection,
    )  # fmt: skip
    return kind(config)


def t5_tokenizer() -> transformers.T5Tokenizer:
    """Letters of ASCII, all else unknown."""
    letters = [(chr(i), -3.0) for i in range(33, 127)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters]
    return transformers.T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


def t5(width: int = WIDTH) -> transformers.T5EncoderModel:
    """A text encoder for ``t5_tokenizer``."""
    config = transformers.T5Config(
        vocab_size=128, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4
    )
    return transformers.T5EncoderModel(config)


def _ldm() -> dict:
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
        LDMBertConfig,
        LDMBertModel,
    )

    letters = [chr(i) for i in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    config = LDMBertConfig(
        vocab_size=256, encoder_layers=2, encoder_ffn_dim=37, encoder_attention_heads=4,
        head_dim=8, d_model=WIDTH,
    )  # fmt: skip
    return {
        "vqvae": vae(),
        "bert": LDMBertModel(config),
        "tokenizer": transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}),
        "unet": unet(),
        "scheduler": ddim(),
    }


def _sd() -> dict:
    return {
        "vae": vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "unet": unet(),
        "scheduler": diffusers.PNDMScheduler(skip_prk_steps=True, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _sdxl() -> dict:
    return {
        "vae": vae(),
        "text_encoder": clip_text(),
        "text_encoder_2": clip_text(transformers.CLIPTextModelWithProjection),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        # 6 sizes of 8 numbers, and the pooled text.
        "unet": unet(
            2 * WIDTH, addition_embed_type="text_time", addition_time_embed_dim=8,
            transformer_layers_per_block=(1, 2), use_linear_projection=True,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        # It adds noise in each step.
        "scheduler": diffusers.EulerAncestralDiscreteScheduler(steps_offset=1),
    }  # fmt: skip


def _sd3() -> dict:
    projected = transformers.CLIPTextModelWithProjection
    return {
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=4, patch_size=1, in_channels=4, num_layers=1, attention_head_dim=8,
            num_attention_heads=4, caption_projection_dim=32, joint_attention_dim=2 * WIDTH,
            pooled_projection_dim=2 * WIDTH, out_channels=4,
        ),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "vae": vae(shift_factor=0.06),
        "text_encoder": clip_text(projected),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(projected),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": t5(2 * WIDTH),
        "tokenizer_3": t5_tokenizer(),
    }  # fmt: skip


def _pixart() -> dict:
    return {
        "transformer": diffusers.PixArtTransformer2DModel(
            sample_size=4, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=3,
            caption_channels=WIDTH, in_channels=4, cross_attention_dim=24, out_channels=8,
        ),
        "vae": vae(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(),
        "text_encoder": t5(),
        "tokenizer": t5_tokenizer(),
    }  # fmt: skip


def _lumina() -> dict:
    letters = [chr(i) for i in range(33, 127)]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters]
    words += [f"<0x{i:02X}>" for i in range(256)]
    config = transformers.GemmaConfig(
        vocab_size=512, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=4,
    )  # fmt: skip
    return {
        "transformer": diffusers.LuminaNextDiT2DModel(
            sample_size=4, patch_size=2, in_channels=4, hidden_size=16, num_layers=2,
            num_attention_heads=1, num_kv_heads=1, multiple_of=16, cross_attention_dim=8,
        ),
        "vae": vae(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
        "text_encoder": transformers.GemmaModel(config),
        "tokenizer": transformers.GemmaTokenizer(
            vocab={w: i for i, w in enumerate(words)}, add_bos_token=True
        ),
    }  # fmt: skip


PARTS = {
    "LDMTextToImagePipeline": _ldm,
    "StableDiffusionPipeline": _sd,
    "StableDiffusionXLPipeline": _sdxl,
    "StableDiffusion3Pipeline": _sd3,
    "PixArtAlphaPipeline": _pixart,
    "LuminaPipeline": _lumina,
}


def image_encoder(size: int = 16) -> transformers.CLIPVisionModelWithProjection:
    """What an IP-Adapter sees a picture with."""
    config = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        image_size=size, patch_size=8, projection_dim=24,
    )  # fmt: skip
    model = transformers.CLIPVisionModelWithProjection(config)
    stir(model)
    return model


def ip_adapter(denoiser: diffusers.UNet2DConditionModel, plus: bool) -> dict[str, torch.Tensor]:
    """Weights of an IP-Adapter for ``denoiser`` and ``image_encoder``, named as published."""
    context, tokens = denoiser.config.cross_attention_dim, 4
    shapes = {}
    for name, module in denoiser.named_modules():
        if name.endswith("attn2"):
            shapes[name] = (module.to_k.out_features, context)
    names = [name.removesuffix(".processor") for name in denoiser.attn_processors]
    weights = {
        f"ip_adapter.{number}.to_{kind}_ip.weight": torch.randn(shapes[name]) / 4
        for number, name in enumerate(names)
        for kind in "kv"
        if name.endswith("attn2")
    }
    shapes = _resampler(context, tokens) if plus else _projection(context, tokens)
    return weights | {f"image_proj.{k}": torch.randn(v) / 4 for k, v in shapes.items()}


def _projection(context: int, tokens: int) -> dict[str, tuple[int, ...]]:
    return {
        "proj.weight": (tokens * context, 24),
        "proj.bias": (tokens * context,),
        "norm.weight": (context,),
        "norm.bias": (context,),
    }


def _resampler(context: int, tokens: int, inner: int = 8) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"latents": (1, tokens, inner)}

    def add(name: str, *shape: int, bias: bool = False) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    add("proj_in", inner, WIDTH, bias=True)
    add("proj_out", context, inner, bias=True)
    add("norm_out", context, bias=True)
    for layer in range(4):
        add(f"layers.{layer}.0.norm1", inner, bias=True)
        add(f"layers.{layer}.0.norm2", inner, bias=True)
        add(f"layers.{layer}.0.to_q", 64, inner)
        add(f"layers.{layer}.0.to_kv", 128, inner)
        add(f"layers.{layer}.0.to_out", inner, 64)
        add(f"layers.{layer}.1.0", inner, bias=True)
        add(f"layers.{layer}.1.1", 4 * inner, inner)
        add(f"layers.{layer}.1.3", inner, 4 * inner)
    return shapes
