"""``arrag convert``: checkpoints and layouts of other projects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from arrag.cli.common import Count, group

app = group("convert", "Convert checkpoints and samples of other projects.")


@app.command
def janus(checkpoint: Path, /, *, out: Path) -> dict[str, Any]:
    """An official Janus checkpoint (deepseek-ai/Janus-Pro-1B) as a folder for transformers.

    Example: arrag convert janus Janus-Pro-1B --out checkpoints/janus-pro-1b

    Args:
        checkpoint: The official folder, or its weights file.
        out: Folder to write.
    """
    from arrag.backbones.convert import convert_checkpoint

    return convert_checkpoint("janus", checkpoint, out)


@app.command
def llamagen(checkpoint: Path, /, *, tokenizer: Path, image_size: int, out: Path) -> dict[str, Any]:
    """LlamaGen's published files as one folder; its text encoder belongs in the subfolder t5.

    Example: arrag convert llamagen t2i_XL_stage1_256.pt --tokenizer vq_ds16_t2i.pt --image-size 256
    --out checkpoints/llamagen-xl-256

    Args:
        checkpoint: The .pt file of the language model.
        tokenizer: The .pt file of the image tokenizer.
        image_size: Pixels per side: 256 or 512.
        out: Folder to write.
    """
    from arrag.backbones.convert import convert_checkpoint

    options = {"tokenizer": tokenizer, "image_size": image_size}
    return convert_checkpoint("llamagen", checkpoint, out, **options)


@app.command
def mask2former(checkpoint: Path, /, *, out: Path) -> dict[str, Any]:
    """mmdetection's Mask2Former, GenEval's detector, as a folder for transformers.

    Example: arrag convert mask2former mask2former_swin-s.pth --out checkpoints/mask2former

    Args:
        checkpoint: The .pth file of mmdetection.
        out: Folder to write.
    """
    from arrag.metrics.detectors.mask2former_convert import convert_mask2former

    return convert_mask2former(checkpoint, out)


@app.command
def pipeline(folder: Path, /, *, out: Path) -> dict[str, Any]:
    """A diffusers pipeline with pickled weights (LDM, RDM) as one with safetensors.

    Example: arrag convert pipeline ldm-text2im-large-256 --out checkpoints/ldm

    Args:
        folder: Folder with model_index.json.
        out: Folder to write.
    """
    from arrag.methods.pipeline_folder import convert_pipeline

    return convert_pipeline(folder, out)


@app.command
def faid(
    source: Path, /, *, checkpoint: Path, out: Path, k: Count = 10, compat_infer: bool = False
) -> dict[str, Any]:
    """The authors' published FAiD checkpoint as an adapter folder.

    Example: arrag convert faid arrag_faid --checkpoint Janus-Pro-1B --out adapters/authors

    Args:
        source: Their .safetensors or .bin file, or its folder.
        checkpoint: Folder of the Janus checkpoint.
        out: Folder of the adapter.
        k: Patches blended.
        compat_infer: Where nothing is retrieved, do as the authors' inference does, not as their
            training.
    """
    from arrag.methods.faid.convert import import_faid
    from arrag.utils.errors import OutputError

    if out.exists():
        raise OutputError("exists", path=out, field="--out", hint="name a new folder")
    absent = "compat_infer" if compat_infer else "zero"
    return {"adapter": out, **import_faid(source, checkpoint, out, k=k, absent=absent)}


@app.command
def dpg_grids(images: Path, /, *, out: Path) -> dict[str, Any]:
    """Samples as DPG-Bench's script reads them: 2 x 2 images of a prompt in one PNG named item_id.

    Example: arrag convert dpg-grids results/samples/dpg/daid-0123456789 --out grids

    Args:
        images: Folder of samples of a question table.
        out: Folder to write.
    """
    from arrag.metrics.dpg.images import write_grids

    return {"out": out, "grids": len(write_grids(images, out))}
