"""The training loop of every model: seeded by step, resumable, logged and plotted.

It runs in one process or in several (Hugging Face accelerate); the caller gives the loss.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from arrag.utils.checkpoint import loading
from arrag.utils.errors import ArragError, MismatchError
from arrag.utils.files import write_text
from arrag.utils.outputs import atomic_path, clear_leftovers
from arrag.utils.resource_errors import disk_space

STATE, LOG, PLOT = "state.pt", "log.jsonl", "loss.png"
TIMING = {"steps_per_second", "images_per_second"}
"""Fields in which two logs of the same training may differ."""


def learning_rate(step: int, steps: int, peak: float, warmup: int, decay: float = 0.25) -> float:
    """Linear warm-up, constant, then linear to zero over the last ``decay`` share of the steps."""
    start = steps - int(steps * decay)
    tail = 1.0 if step < start else (steps - step) / max(1, steps - start)
    return peak * min(1.0, (step + 1) / max(1, warmup)) * tail


def train(
    model: nn.Module,
    groups: Iterable[dict],
    loss_fn: Callable[[int], torch.Tensor],
    *,
    steps: int,
    peak: float,
    work_dir: Path,
    train_config: dict,
    validate: Callable[[], dict] | None = None,
    accelerator: Accelerator | None = None,
    parallel: nn.Module | None = None,
    grad_accum_steps: int = 1,
    images: int | None = None,
    warmup: int = 100,
    decay: float = 0.25,
    weight_decay: float = 0.01,
    log_every: int = 50,
    validate_every: int = 500,
    save_seconds: float = 120.0,
) -> None:
    """Minimise a loss with AdamW; leaves ``model`` trained.

    Only parameters that require a gradient are trained and saved. The state is kept in
    ``work_dir``: ``state.pt`` (weights, optimizer, step), ``log.jsonl`` and ``loss.png``. A killed
    training continues there with the same losses and weights.

    Args:
        model: The model.
        groups: Parameter groups of AdamW; ``scale`` in a group multiplies its learning rate.
        loss_fn: The loss of one micro-batch, given its number, counted through the training. It
            must draw its data and every random number from that number (and the process's rank)
            alone.
        steps: Optimizer steps.
        peak: Highest learning rate.
        work_dir: Folder of the state.
        train_config: JSON-able; a state with another one is refused.
        validate: Figures for the log.
        accelerator: Of several processes or mixed precision.
        parallel: The model as the accelerator's ``prepare`` returned it.
        grad_accum_steps: Micro-batches of a step, over whose losses it takes the mean.
        images: Images of a step, to show the speed.
        warmup, decay: See :func:`learning_rate`.
        weight_decay: Of AdamW.
        log_every, validate_every, save_seconds: Steps, or seconds, between two of these.

    Raises:
        MismatchError: The saved state has another ``train_config`` or other weights.
        ArragError: The loss is not finite.
    """
    accelerator = accelerator or Accelerator(cpu=True)
    main = accelerator.is_main_process
    work_dir.mkdir(parents=True, exist_ok=True)
    plain = torch.optim.AdamW(list(groups), lr=peak, betas=(0.9, 0.95), weight_decay=weight_decay)
    first = _resume(work_dir / STATE, model, plain, train_config)
    optimizer = accelerator.prepare(plain)
    if main:
        clear_leftovers(work_dir / STATE)
    log = _reopen_log(work_dir / LOG, first) if main else None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    scales = [group.get("scale", 1.0) for group in optimizer.param_groups]
    saved = mark = time.monotonic()
    marked = first
    shown = dict(initial=first, total=steps, desc=work_dir.name, mininterval=5, disable=not main)
    bar = tqdm(range(first, steps), **shown)
    for step in bar:
        rate = learning_rate(step, steps, peak, warmup, decay)
        for group, scale in zip(optimizer.param_groups, scales, strict=True):
            group["lr"] = rate * scale
        loss = _gradient(loss_fn, step, grad_accum_steps, accelerator, parallel or model)
        if not torch.isfinite(loss):
            raise ArragError(
                f"the loss is {'NaN' if loss.isnan() else 'infinite'} at step {step + 1}",
                path=work_dir,
                hint="lower the learning rate, or train without mixed precision",
            )
        accelerator.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        done = step + 1
        if done % log_every == 0 or done == steps:
            row = {"step": done, "loss": loss.item(), "lr": rate}
            row["steps_per_second"] = (done - marked) / max(time.monotonic() - mark, 1e-9)
            if images:
                row["images_per_second"] = row["steps_per_second"] * images
            if validate and (done % validate_every == 0 or done == steps):
                row |= validate()
            if main:
                log.write(json.dumps(row) + "\n")
                log.flush()
            bar.set_postfix({k: f"{row[k]:.4g}" for k in ("loss", "images_per_second") if k in row})
            mark, marked = time.monotonic(), done
        if main and (time.monotonic() - saved > save_seconds or done == steps):
            _save(work_dir / STATE, model, plain, train_config, done)
            saved = time.monotonic()
    if main:
        log.close()
        plot_log(work_dir / LOG, work_dir / PLOT)
    accelerator.wait_for_everyone()


def _gradient(loss_fn, step: int, grad_accum_steps: int, accelerator: Accelerator, parallel):
    """Accumulate the gradient of a step; returns its loss, the mean over micro-batches."""
    total = torch.zeros((), device=accelerator.device)
    for i in range(grad_accum_steps):
        # The processes exchange gradients once a step, with its last micro-batch.
        last = i == grad_accum_steps - 1
        with nullcontext() if last else accelerator.no_sync(parallel):
            loss = loss_fn(step * grad_accum_steps + i) / grad_accum_steps
            accelerator.backward(loss)
        total += loss.detach().float()
    return accelerator.reduce(total, "mean")


def trained_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model without its frozen parameters."""
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def _save(path: Path, model: nn.Module, optimizer, train_config: dict, step: int) -> None:
    state = {"step": step, "train_config": json.dumps(train_config, sort_keys=True)}
    state |= {"model": trained_state(model), "optimizer": optimizer.state_dict()}
    with disk_space(path), atomic_path(path) as partial:
        torch.save(state, partial)


def _resume(path: Path, model: nn.Module, optimizer, train_config: dict) -> int:
    """Load the state at ``path`` if there is one; returns the number of steps already done."""
    if not path.exists():
        return 0
    hint = f"delete {path.parent} to start again"
    with loading(path, "the state of a training", hint):
        state = torch.load(path, weights_only=True, map_location="cpu")
    wanted, found = json.dumps(train_config, sort_keys=True), state.get("train_config")
    if found != wanted:
        raise MismatchError(f"has the configuration {found}, now {wanted}", path=path, hint=hint)
    if state["model"].keys() != trained_state(model).keys():
        raise MismatchError("has other weights than this model trains", path=path, hint=hint)
    model.load_state_dict(state["model"], strict=False)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"]


def _reopen_log(path: Path, first: int):
    """Open the log for appending, without the lines of steps that will be repeated."""
    kept = []
    for line in path.read_text().splitlines() if first and path.exists() else []:
        try:
            if json.loads(line)["step"] > first:
                break
        except ValueError:  # cut off, by a full disk say; its step was not saved
            break
        kept.append(line)
    write_text(path, "".join(line + "\n" for line in kept))
    return path.open("a")


def plot_log(log: Path, out: Path) -> None:
    """Draw training loss and every validation figure of a log against the step."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text().splitlines()]
    figures = sorted({k for row in rows for k in row} - TIMING - {"step", "lr", "loss"})
    fig = Figure(figsize=(4.2 * (1 + len(figures)), 3.2))
    axes = fig.subplots(1, 1 + len(figures), squeeze=False)[0]
    for axis, name in zip(axes, ["loss", *figures], strict=True):
        points = [(row["step"], row[name]) for row in rows if name in row]
        axis.plot(*zip(*points, strict=True), linewidth=1)
        axis.set(title=name, xlabel="step")
        axis.grid(alpha=0.3)
    fig.tight_layout()
    fig.savefig(out, dpi=90)
