"""One training loop for every micro checkpoint: seeded by step, resumable, logged, plotted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from arrag.errors import ArragError
from arrag.files import atomic_path


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float = 0.25) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``decay`` share of the steps.

    A constant middle lets a run be prolonged without having committed to its length at the start.
    """
    start = int(steps * (1 - decay))
    tail = 1.0 if step < start else (steps - step) / max(1, steps - start)
    return peak * min(1.0, (step + 1) / warmup) * tail


def run(
    model: nn.Module,
    groups: Iterable[dict],
    loss_of_step: Callable[[int], torch.Tensor],
    *,
    steps: int,
    peak: float,
    work_dir: Path,
    recipe: dict,
    validate: Callable[[], dict] | None = None,
    warmup: int = 100,
    weight_decay: float = 0.01,
    log_every: int = 50,
    validate_every: int = 500,
    save_seconds: float = 120.0,
) -> None:
    """Minimise ``loss_of_step(step)`` for ``steps`` steps with AdamW; leaves ``model`` trained.

    ``loss_of_step`` must draw its data from ``step`` alone, so that a run which was killed and
    started again sees the same batches. State is kept in ``work_dir``: ``state.pt`` (weights,
    optimiser, step), ``log.jsonl``. A ``recipe`` other than the saved one is an ArragError.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        list(groups), lr=peak, betas=(0.9, 0.95), weight_decay=weight_decay
    )
    first = _resume(work_dir / "state.pt", model, optimizer, recipe)
    log = _reopen_log(work_dir / "log.jsonl", first)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scales = [group.get("scale", 1.0) for group in optimizer.param_groups]
    saved = mark = time.monotonic()
    marked = first
    bar = tqdm(range(first, steps), initial=first, total=steps, desc=work_dir.name, mininterval=5)
    for step in bar:
        rate = learning_rate(step, steps, peak, warmup)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = rate * scale
        loss = loss_of_step(step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % log_every == 0 or done == steps:
            now = time.monotonic()
            row = {"step": done, "loss": loss.item(), "lr": rate}
            row["steps_per_second"] = (done - marked) / max(now - mark, 1e-9)
            if row["loss"] != row["loss"]:
                raise ArragError(f"{work_dir}: the loss is NaN at step {done}; lower the rate")
            if validate and (done % validate_every == 0 or done == steps):
                row |= validate()
            log.write(json.dumps(row) + "\n")
            log.flush()
            bar.set_postfix(loss=f"{row['loss']:.4f}")
            mark, marked = time.monotonic(), done
        if time.monotonic() - saved > save_seconds or done == steps:
            _save(work_dir / "state.pt", model, optimizer, recipe, done)
            saved = time.monotonic()
    log.close()
    plot_log(work_dir / "log.jsonl", work_dir / "loss.png")


def _save(path: Path, model: nn.Module, optimizer, recipe: dict, step: int) -> None:
    state = {"step": step, "recipe": json.dumps(recipe, sort_keys=True)}
    state |= {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with atomic_path(path) as partial:
        torch.save(state, partial)


def _resume(path: Path, model: nn.Module, optimizer, recipe: dict) -> int:
    """Load the state at ``path`` if there is one; the number of steps already done."""
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    wanted = json.dumps(recipe, sort_keys=True)
    if state["recipe"] != wanted:
        raise ArragError(
            f"{path}: was trained with another recipe ({state['recipe']}, now {wanted}); "
            f"delete {path.parent} to start again"
        )
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _reopen_log(path: Path, first: int):
    """Open the log for appending, without the lines of steps that will be done again."""
    kept = []
    if first and path.exists():
        kept = [x for x in path.read_text().splitlines() if json.loads(x)["step"] <= first]
    path.write_text("".join(line + "\n" for line in kept))
    return path.open("a")


def plot_log(log: Path, out: Path) -> None:
    """Draw training loss and every validation figure of a log against the step."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figures = sorted({k for row in rows for k in row} - {"step", "lr", "steps_per_second", "loss"})
    fig, axes = plt.subplots(1, 1 + len(figures), figsize=(4.2 * (1 + len(figures)), 3.2))
    for axis, name in zip([axes] if not figures else axes, ["loss", *figures], strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(out, dpi=90)
    plt.close(fig)
