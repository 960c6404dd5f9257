"""Write the synthetic dataset's prompt files, or render the scenes that captions describe.

python workflow/scripts/micro/prompts.py geneval --out benchmarks/geneval_micro.jsonl
python workflow/scripts/micro/prompts.py render benchmarks/mjhq_micro.jsonl --out reference
"""

from __future__ import annotations

import json
from pathlib import Path

from cyclopts import App

from arrag.data.micro.prompts import write_captions, write_prompts
from arrag.data.micro.questions import write_questions
from arrag.data.prompts import first_of_each_task
from arrag.pipeline.layout import MICRO_ASSETS as ASSETS
from arrag.pipeline.records import write_record
from arrag.utils.files import write_text

app = App(name="prompts.py", help="Prompts of the synthetic dataset.", version_flags=())


@app.command
def geneval(*, out: Path, per_task: int | None = None) -> None:
    """Write prompts in GenEval's metadata format; ``per_task`` keeps the first of each task."""
    write_prompts(out)
    if per_task is not None:
        lines = out.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = first_of_each_task([json.loads(line) for line in lines], per_task)
        write_text(out, "".join(lines[i] for i in kept))


@app.command
def dpg(*, out: Path, per_task: int | None = None) -> None:
    """Write a question table like dpg_bench.csv."""
    write_questions(out, per_task)


@app.command
def captions(*, out: Path, per_task: int | None = None, assets: Path = ASSETS) -> None:
    """Write captions of real scenes as JSON lines, like MJHQ-30K's."""
    write_captions(out, assets, per_task)


@app.command
def render(prompts: Path, /, *, out: Path, assets: Path = ASSETS) -> None:
    """Render the scenes that a caption file describes, as reference images."""
    from arrag.methods.ceiling import write_reference

    write_reference(prompts, out, assets)
    write_record(out, made_of={"prompts": prompts, "assets": assets})


if __name__ == "__main__":
    app()
