"""Can this configuration run here, and what will it cost? Everything is looked at, nothing is run.

Each finding is fine, a warning, or something that blocks a run, with what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from arrag.config.assets import asset_path, paths_in
from arrag.config.hub import Reference, reference_of
from arrag.config.root import Config
from arrag.pipeline.estimates import Stage, constants, download, estimate, lines_of
from arrag.pipeline.layout import RESULTS
from arrag.pipeline.machine import Machine, look, wrong_packages
from arrag.pipeline.plan import Plan
from arrag.utils.errors import ArragError
from arrag.utils.globs import files_of

FINE, WARN, BLOCK = "ok", "warning", "BLOCKS"
MARKS = {FINE: "  ok ", WARN: "  !  ", BLOCK: "BLOCK"}
GB = 1e9
MANY_JOBS = 10_000
USUAL_GB = 5.0  # of a repository that doctor.yaml does not know
SECONDS_TO_ANSWER = 5.0  # of the hub
# Packages that only some kinds of generators use, beyond those that arrag always needs.
OF_KINDS = {"diffusers": "diffusers", "rdm": "diffusers", "imagerag": "diffusers"}


@dataclass(frozen=True)
class Finding:
    """state: ok, warning or BLOCKS; advice: what to do, "" if nothing."""

    part: str
    name: str
    state: str
    found: str
    advice: str = ""

    def __str__(self) -> str:
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{MARKS[self.state]} {self.part}: {self.name}: {self.found}{advice}"


@dataclass
class Report:
    """What was found, and what is left to run."""

    config: str
    findings: list[Finding]
    stages: list[Stage]
    scale: str

    @property
    def blocked(self) -> list[Finding]:
        """What must be mended before a run."""
        return [finding for finding in self.findings if finding.state == BLOCK]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "config": self.config,
            "can_start": not self.blocked,
            "findings": [asdict(finding) for finding in self.findings],
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": sum(stage.seconds for stage in self.stages),
            "bytes": sum(stage.bytes for stage in self.stages),
        }

    def as_text(self) -> str:
        """The report for a person."""
        lines = list(map(str, self.findings))
        if self.stages:
            lines += ["", *lines_of(self.stages, self.scale == "paper"), ""]
            lines.append("These are estimates, good to a factor of a few.")
        if blocked := len(self.blocked):
            lines.append(f"Cannot start: {blocked} of the above to mend first.")
        else:
            lines.append("Can start." if self.stages else "Nothing is left to run.")
        return "\n".join(lines)


def examine(config: Config, path: Path | str, *, network: bool = True) -> Report:
    """Look at everything that a run of the configuration needs.

    Args:
        config: The configuration.
        path: Its file, for the report.
        network: Ask the hub about repositories that are not here.
    """
    machine, plan = look(RESULTS), Plan(config)
    stages = estimate(plan, machine.gpu is not None, min(machine.cores, config.resources.threads))
    to_fetch = GB * sum(
        _known(reference).get("gigabytes", USUAL_GB)
        for reference in repositories(config)
        if not reference.folder.is_dir()
    )
    if to_fetch:
        stages.insert(0, download(to_fetch))
    findings = [Finding("configuration", str(path), FINE, f"{len(config.methods)} methods")]
    findings += [*_packages(config), *_hub(config, network), *_files(config), *_corpora(config)]
    findings += [*_jobs(plan), *_machine(config, machine, sum(stage.bytes for stage in stages))]
    return Report(str(path), findings, stages, config.scale)


def repositories(config: Config) -> dict[Reference, list[str]]:
    """The hub's repositories that are used, and the fields that name them."""
    found: dict[Reference, list[str]] = {}
    for field, path in paths_in(config, config.assets):
        if (reference := reference_of(path)) is not None:
            found.setdefault(reference, []).append(field)
    return found


def user_provided_paths(config: Config) -> dict[str, Path]:
    """Files and folders that no rule makes, so that the user puts them there; by field."""
    return {
        field: path
        for field, path in paths_in(config, config.assets)
        if asset_path(path, config.assets) is None
    }


def corpora(config: Config) -> dict[str, tuple[str, int | None]]:
    """The images of all databases and trainings: {source: (field, how many of them)}."""
    found: dict[str, tuple[str, int | None]] = {}
    for name in config.methods:
        resolved = config.resolved(name)
        if "database" in resolved.required_blocks:
            for field, sample in resolved.database.samples.items():
                found.setdefault(sample.source, (field, sample.images))
        if resolved.method.is_trained_here:
            training = resolved.training
            found.setdefault(training.source, ("training.source", training.pairs))
    return {source: about for source, about in found.items() if source != "micro"}


def ask(reference: Reference, endpoint: str | None = None) -> tuple[str, str, str, bool]:
    """(state, what was found, advice, whether the hub answered) of a repository not here yet."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    from arrag.config.hub import wanted
    from arrag.data.hub import hub_error

    api = HfApi(endpoint=endpoint)
    try:
        about = api.repo_info(
            reference.repository,
            revision=reference.revision,
            repo_type=reference.repo_type,
            files_metadata=True,
            timeout=SECONDS_TO_ANSWER,
        )
        names = wanted((s.rfilename for s in about.siblings or ()), reference.also)
        api.auth_check(reference.repository, repo_type=reference.repo_type)
    except ArragError as error:
        return BLOCK, str(error), "correct the reference", True
    except HfHubHTTPError as error:
        return BLOCK, str(hub_error(reference, error)), f"see {reference.page}", True
    except (HTTPError, OSError):
        return BLOCK, "not here, hub out of reach", _put(reference), False
    sizes = {s.rfilename: s.size or 0 for s in about.siblings}
    total = sum(sizes[name] for name in names) / GB
    moving = "" if reference.fixed else f"; pin it: @{about.sha}"
    return FINE, f"can be fetched, {total:.1f} GB{moving}", "", True


def _put(reference: Reference) -> str:
    return f"check the network, or put its files into {reference.folder}"


def _known(reference: Reference) -> dict[str, Any]:
    return constants()["repositories"].get(str(reference).partition("@")[0], {})


def _packages(config: Config) -> Iterator[Finding]:
    wrong = wrong_packages()
    for text in wrong:
        yield Finding("package", text.split()[0], WARN, text, "install what requirements/ pins")
    if not wrong:
        yield Finding("package", "all", FINE, "installed in the versions asked for")
    wanted = {OF_KINDS.get(settings.kind) for settings in config.generators.values()} - {None}
    for name in sorted(name for name in wanted if find_spec(name) is None):
        yield Finding("package", name, BLOCK, f"{name} is missing", f"`pip install {name}`")


def _hub(config: Config, network: bool) -> Iterator[Finding]:
    """One finding a repository; a hub that does not answer is not asked again."""
    answers = network
    for reference, fields in repositories(config).items():
        name = f"{reference} ({', '.join(fields[:2])}{', ...' if len(fields) > 2 else ''})"
        licence = _known(reference).get("licence") or f"unknown, see {reference.page}"
        state, found, advice = FINE, "here", ""
        if not reference.folder.is_dir():
            state, found, advice = BLOCK, "not here, hub out of reach", _put(reference)
            if answers:
                state, found, advice, answers = ask(reference)
        yield Finding("repository", name, state, f"{found}, licence: {licence}", advice)


def _files(config: Config) -> Iterator[Finding]:
    for field, path in user_provided_paths(config).items():
        if path.exists():
            yield Finding("file", field, FINE, str(path))
        else:
            advice = f"put it there, or name another in {field}"
            yield Finding("file", field, BLOCK, f"{path} is not there", advice)
    for name, made in config.assets.items():
        state = "here" if Path(name).exists() else "will be made"
        licence = f", licence: {made.licence}" if getattr(made, "licence", None) else ""
        yield Finding("prepared", name, FINE, f"{made.kind}, {state}{licence}")


def _corpora(config: Config) -> Iterator[Finding]:
    for source, (field, images) in corpora(config).items():
        files = files_of(source)
        missing = [file for file in files if not Path(file).exists()]
        found = f"{len(files) - len(missing)} of {len(files)} files, {images or 'all'} images"
        if missing:
            advice = (
                f"{missing[0]} is missing; download it (docs/how-to/paper-scale.md says from where)"
            )
            yield Finding("corpus", field, BLOCK, found, advice)
        else:
            yield Finding("corpus", field, FINE, found)


def _jobs(plan: Plan) -> Iterator[Finding]:
    """Whether databases of several corpora are cut into too many jobs to be planned quickly."""
    jobs = sum(artifact.kind in ("corpora", "code-parts") for artifact in plan.values())
    if jobs > MANY_JOBS:
        advice = f"raise database.images_per_job: up to {MANY_JOBS:,} are planned in a minute"
        yield Finding("plan", "database", WARN, f"{jobs:,} jobs to list and encode", advice)


def _machine(config: Config, machine: Machine, wanted_bytes: float) -> Iterator[Finding]:
    yield Finding("machine", "cores", FINE, str(machine.cores))
    free, wanted = machine.disk / GB, wanted_bytes / GB
    about = f"{free:,.0f} GB free, about {wanted:,.1f} GB wanted"
    advice = "free some, or link results/ and data/ to a larger disk" if free < wanted else ""
    yield Finding("machine", "disk", BLOCK if advice else FINE, about, advice)
    weights = {str(r): _known(r).get("gigabytes", 0.0) for r in repositories(config)}
    largest = max(weights, key=lambda name: weights[name], default="")
    size, memory = weights.get(largest, 0.0), machine.memory / GB
    advice = f"{largest} has about {size} GB of weights; use a larger machine"
    if size > memory:
        yield Finding("machine", "memory", BLOCK, f"{memory:,.0f} GB", advice)
    else:
        yield Finding("machine", "memory", FINE, f"{memory:,.0f} GB")
    if machine.gpu:
        about = f"{machine.gpu}, {machine.gpu_memory / GB:,.0f} GB"
        advice = f"{largest} may not fit; lower its dtype or batch"
        small = machine.gpu_memory < size * GB
        yield Finding("machine", "GPU", WARN if small else FINE, about, advice if small else "")
    elif config.scale == "paper":
        advice = "runs, but see the times below; use a machine with one"
        yield Finding("machine", "GPU", WARN, "none", advice)
    else:
        yield Finding("machine", "GPU", FINE, "none, none needed")
