"""The command line: ``arrag GROUP COMMAND``.

A command is a function: its signature gives the options, its docstring the help (cyclopts builds
the parser from both, and names the nearest option or command for an unknown one). Groups are
imported when they are used, so that ``arrag --help`` loads nothing slow.

A result is printed as a few lines, or with ``--json`` as one JSON object; progress goes to standard
error. Exit status: 0 done; 1 done, and a check failed; 2 an error of the user, on one line; 130
interrupted.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from arrag import __version__
from arrag.utils.errors import ArragError, OutputError
from arrag.utils.locks import output_lock
from arrag.utils.resource_errors import translate_resource_errors

COMMANDS = {
    "generate": ("generate:generate", "Draw images for prompts, or a method's samples."),
    "score": ("score:app", "Score a folder of images, or recorded results."),
    "fid-stats": ("distances:fid_stats", "Compute statistics of reference images."),
    "report": ("report:app", "Write tables, figures and pages from scores and samples."),
    "db": ("db:app", "Encode images as token stores; sample and join corpora."),
    "index": ("index:app", "Build, search and verify indexes of patches."),
    "train": ("train:app", "Train adapters."),
    "benchmark": ("benchmark:benchmark", "Time every row of Table 4."),
    "assets": ("assets:app", "Download and prepare weights, prompts and pictures."),
    "convert": ("convert:app", "Convert checkpoints and samples of other projects."),
    "config": ("config:app", "Check configuration files."),
    "doctor": ("doctor:doctor", "Check whether a configuration can run here."),
    "verify": ("verify:verify", "Compare results with their records; trace a number."),
}
"""Commands and groups by name: where they are, and their line in the help."""
BATCH_FIELDS = {
    "encode": "encode_batch_size",
    "images": "encode_batch_size",
    "adapter": "train_batch_size",
    "generate": "batch_size",
}
"""The field of the configuration's ``resources`` that a command's batch size comes from."""
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def build_app(*described: str) -> App:
    """Return the application with all commands.

    Args:
        described: Commands whose docstring is their help, instead of the one line in the list; they
            are imported.
    """
    app = App(
        name="arrag",
        help="Retrieval-augmented image generation: draw, score, report. All commands take --json.",
        version=__version__,
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
    )
    for name, (target, help) in COMMANDS.items():
        app.command(f"arrag.cli.{target}", name=name, help=None if name in described else help)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in argv
    argv = [word for word in argv if word != "--json"]
    bound_threads()
    try:
        app = build_app(*argv[:1])
        function, bound, _ = app.parse_args(argv, exit_on_error=False, print_error=False)
        bound.apply_defaults()
        # Whatever a library prints belongs to the progress, not to the result.
        ours = getattr(function, "__module__", "").startswith("arrag.")
        with contextlib.redirect_stdout(sys.stderr) if ours else contextlib.nullcontext():
            result = _run(function, bound)
    except CycloptsError as error:
        return _fail(_first_mistake(error))
    except ArragError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("arrag: interrupted; the same command continues from here", file=sys.stderr)
        return 130
    if result is None:  # --help, --version
        return 0
    text = getattr(result, "text", None) or describe(result)
    print(escape(json.dumps(result, default=str, ensure_ascii=False) if as_json else text))
    return getattr(result, "status", 0)


def _first_mistake(error: CycloptsError) -> str:
    """Return a parser's error as text; of a settings model's errors, the first one."""
    from pydantic import ValidationError

    if not isinstance(error.__cause__, ValidationError):
        return str(error)
    first = error.__cause__.errors(include_url=False)[0]
    option = "--" + "-".join(map(str, first["loc"])).replace("_", "-")
    return f"{option}: found {first['input']!r}; {first['msg']}"


def _fail(message: str) -> int:
    print(escape(f"arrag: error: {' '.join(message.split())}"), file=sys.stderr)
    return 2


def _run(function: Any, bound: inspect.BoundArguments) -> Any:
    given = {
        name: value
        for argument in bound.arguments.items()
        for name, value in (argument, *getattr(argument[1], "__dict__", {}).items())
    }
    out = given.get("out")
    if out is not None:
        _check_inputs(given, Path(out))
    # Parts are written next to each other, and the processes of a training belong together.
    alone = out is not None and not given.get("part") and os.environ.get("RANK", "0") == "0"
    what = out or f"arrag {function.__name__.replace('_', '-')}"
    lock = output_lock(out) if alone else contextlib.nullcontext()
    with translate_resource_errors(what, _memory_hint(function.__name__, given)), lock:
        return function(*bound.args, **bound.kwargs)


def _memory_hint(command: str, given: dict[str, Any]) -> str:
    """Return what to lower when a command runs out of memory."""
    if "batch_size" not in given:
        return "give it more memory, and run it again"
    now = f", now {given['batch_size']}" if given["batch_size"] else ""
    field = BATCH_FIELDS.get(command)
    where = f" or resources.{field} of the configuration" if field else ""
    return f"take fewer images at a time (--batch-size{now}{where}), or give it more memory"


def _check_inputs(given: dict[str, Any], out: Path) -> None:
    """Raise OutputError if the output is, or contains, a file or folder that the command reads."""
    out = Path(os.path.realpath(out))
    for name, value in given.items():
        for path in value if isinstance(value, list | tuple) else [value]:
            if name == "out" or not isinstance(path, Path | str) or not os.path.exists(path):
                continue
            if Path(os.path.realpath(path)).is_relative_to(out):
                raise OutputError(
                    f"is, or contains, {path}, which this command reads",
                    path=out,
                    field="--out",
                    hint="name another output",
                )


def bound_threads() -> None:
    """Let every library obey OMP_NUM_THREADS, which Snakemake sets from a rule's ``threads``.

    torch, FAISS and OpenBLAS read the variable themselves; numba and tokenizers have their own.
    Must run before any of them is imported.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads:
        os.environ.setdefault("NUMBA_NUM_THREADS", threads)
        os.environ.setdefault("RAYON_NUM_THREADS", threads)


def escape(text: str) -> str:
    """Return the text with control characters written out as JSON writes them.

    A name in an archive or a prompt file must not control the terminal that it is shown on.
    """
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def describe(result: dict[str, Any]) -> str:
    """Return a result as one ``name: value`` line per field, nested values as compact JSON."""
    lines = []
    for name, value in result.items():
        if isinstance(value, dict | list):
            value = json.dumps(value, default=str, ensure_ascii=False)
        lines.append(f"{name}: {value}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
