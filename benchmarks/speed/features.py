"""FID of a folder scored twice: with an empty cache of features, and with a full one.

    python benchmarks/speed/features.py --json [--images 300]

The images are scenes of the micro world at 256 px; MobileNetV2's weights are fetched if they are
missing. Takes two minutes on one free core at the default size. The second time reads and hashes
every image again and computes the distance; the third changes one image first. Times are CPU time,
so that load on the machine does not change the ratio: run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from PIL import Image

from arrag.config.benchmarks import FidSettings
from arrag.data.micro.world import World
from arrag.metrics.base import ScoreOptions
from arrag.metrics.fid import FID
from arrag.metrics.mobilenet import FOLDER, fetch_mobilenet
from arrag.pipeline.layout import MICRO_ASSETS


def draw(folder: Path, split: str, n: int, pixels: int) -> Path:
    """The first n scenes of a split as PNGs."""
    world = World(str(MICRO_ASSETS), split)
    folder.mkdir()
    for i in range(n):
        image = Image.fromarray(world.scene(i).image).resize((pixels, pixels))
        image.save(folder / f"{i:05d}.png")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--extractor", default="mobilenetv2:160")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not FOLDER.is_dir():
        fetch_mobilenet()
    seconds, values = {}, {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        a = draw(root / "a", "training", args.images, args.pixels)
        b = draw(root / "b", "reference", args.images, args.pixels)
        fid = FID(FidSettings(extractor=args.extractor))
        options = ScoreOptions(cache=root / "cache", resamples=0)
        warm = FID(FidSettings(extractor=args.extractor, allow_rank_deficient=True))
        first = draw(root / "warm", "training", 2, 64)
        warm.score(first, first, ScoreOptions(resamples=0))  # imports and first run are not timed
        for run in ("empty cache", "full cache", "one image changed"):
            if run == "one image changed":
                Image.new("RGB", (args.pixels,) * 2, "red").save(a / "00000.png")
            begun = time.process_time()
            values[run] = fid.score(a, b, options).value
            seconds[run] = time.process_time() - begun
    result = {
        "images_a_side": args.images,
        "cpu_seconds": {run: round(s, 3) for run, s in seconds.items()},
        "times_faster": {run: round(seconds["empty cache"] / s, 1) for run, s in seconds.items()},
        "values": values,
    }
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
