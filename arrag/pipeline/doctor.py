"""Can this configuration run here, and what will it cost? Everything is looked at, nothing is run.

Each finding is fine, a warning, or something that blocks a run, with what to do about it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from arrag.config.hub import Reference
from arrag.config.root import Config
from arrag.pipeline.doctor_costs import Costs
from arrag.pipeline.doctor_estimates import SMALL, Estimator, Stage
from arrag.pipeline.doctor_machine import Machine, look, wrong_packages
from arrag.pipeline.doctor_measure import measure, measure_coding
from arrag.pipeline.doctor_needs import corpora, own_paths, packages, repositories
from arrag.pipeline.doctor_rates import Rate, Rates, assumed, known
from arrag.pipeline.layout import RESULTS, Layout
from arrag.pipeline.layout_parts import parts_of
from arrag.utils.errors import ArragError

FINE, WARN, BLOCK = "ok", "warning", "BLOCKS"
GIGABYTE = 1e9
MANY_JOBS = 10_000
SECONDS_TO_ANSWER = 5.0  # of the hub


@dataclass(frozen=True)
class Finding:
    """state: ok, warning or BLOCKS; advice: what to do, "" if nothing."""

    part: str
    name: str
    state: str
    found: str
    advice: str = ""


@dataclass
class Report:
    """What was found, how long the stages take that are still to be run, and by which rates."""

    config: str
    findings: list[Finding]
    stages: list[Stage]
    rates: Rates

    @property
    def blocked(self) -> list[Finding]:
        """What must be mended before a run."""
        return [finding for finding in self.findings if finding.state == BLOCK]

    def as_json(self) -> dict[str, Any]:
        """Everything, with the rates that the estimates rest on."""
        return {
            "config": self.config,
            "can_start": not self.blocked,
            "findings": [asdict(finding) for finding in self.findings],
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": sum(stage.seconds for stage in self.stages),
            "bytes": sum(stage.bytes for stage in self.stages),
            "rates": {name: asdict(rate) for name, rate in self.rates.items()},
        }


def examine(
    config: Config,
    path: Path,
    *,
    network: bool = True,
    measured: bool = True,
    own: Rates | None = None,
) -> Report:
    """Look at everything that a run of the configuration needs.

    network: ask the hub about repositories that are not here. measured: take some seconds to
    measure this machine's rates. own: rates that hold whatever is measured or assumed.
    """
    machine = look(RESULTS)
    rates = assumed() | (measure(RESULTS) if measured else {})
    if machine.gpu:
        rates["gpu_memory"] = Rate(machine.gpu_memory, "bytes", machine.gpu, True)
    rates["host_memory"] = Rate(machine.memory, "bytes", "this machine's", True)
    rates |= own or {}
    stages = _stages(config, machine, rates, measured)
    findings = [Finding("configuration", str(path), FINE, f"{len(config.methods)} methods")]
    findings += [
        Finding("package", text.split()[0], WARN, text, "install what requirements/ pins")
        for text in wrong_packages()
    ] or [Finding("package", "all", FINE, "installed in the versions asked for")]
    findings += [
        Finding("package", name, BLOCK, f"{name} is missing", f"`pip install {name}`")
        for name in sorted(packages(config))
        if not _installed(name)
    ]
    findings += _hub(config, network) + _files(config) + _corpora(config) + _plan(config)
    to_fetch = GIGABYTE * sum(
        known()["repositories"].get(name, {}).get("gigabytes", 5.0)
        for name, here in _repositories_here(config).items()
        if not here
    )
    findings += _machine(config, machine, sum(s.bytes for s in stages) + to_fetch)
    if to_fetch:
        cost = Costs(rates, machine.gpu is not None, 1).download(to_fetch)
        about = f"{to_fetch / GIGABYTE:,.0f} GB"
        stages.insert(0, Stage("download", about, cost.seconds, cost.bytes, list(cost.basis)))
    return Report(str(path), findings, stages, rates)


def _stages(config: Config, machine: Machine, rates: Rates, measured: bool) -> list[Stage]:
    """What is still to be run; without a GPU here, also how long it takes on one."""
    small = {
        str(g.checkpoint)
        for g in config.generators.values()
        if (g.checkpoint / "config.json").is_file() and _weight(g.checkpoint) < SMALL
    }
    coding = {path: measure_coding(Path(path)) for path in sorted(small)} if measured else {}
    stages = Estimator(config, machine, rates, coding).stages()
    if machine.gpu is None and config.scale == "paper":
        beside = Estimator(config, replace(machine, gpu="one"), rates).stages()
        for here, there in zip(stages, beside, strict=True):
            here.seconds_on_gpu = there.seconds
    return stages


def _weight(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(file.stat().st_size for file in folder.rglob("*.safetensors"))


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _repositories_here(config: Config) -> dict[str, bool]:
    return {
        str(reference).partition("@")[0]: reference.folder.is_dir()
        for reference in repositories(config)
    }


def _hub(config: Config, network: bool) -> list[Finding]:
    """One finding a repository; a hub that does not answer is not asked again."""
    findings, answers = [], network
    for reference, fields in repositories(config).items():
        name = f"{reference} ({', '.join(fields[:2])}{', ...' if len(fields) > 2 else ''})"
        licence = known()["repositories"].get(str(reference).partition("@")[0], {}).get("licence")
        licence = f"licence: {licence or 'unknown, see ' + reference.page}"
        if reference.folder.is_dir():
            findings.append(Finding("repository", name, FINE, f"here, {licence}"))
            continue
        if not answers:
            findings.append(_unreachable(reference, name, licence))
            continue
        state, found, advice, answers = ask(reference)
        findings.append(Finding("repository", name, state, f"{found}, {licence}", advice))
    return findings


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
        finding = _unreachable(reference, "", "")
        return finding.state, finding.found.rstrip(", "), finding.advice, False
    sizes = {s.rfilename: s.size or 0 for s in about.siblings}
    total = sum(sizes[name] for name in names) / GIGABYTE
    moving = "" if reference.fixed else f"; pin it: @{about.sha}"
    return FINE, f"can be fetched, {total:.1f} GB{moving}", "", True


def _unreachable(reference: Reference, name: str, licence: str) -> Finding:
    advice = f"check the network, or put its files into {reference.folder}"
    return Finding("repository", name, BLOCK, f"not here, hub out of reach, {licence}", advice)


def _files(config: Config) -> list[Finding]:
    findings = []
    for field, path in own_paths(config).items():
        if path.exists():
            findings.append(Finding("file", field, FINE, str(path)))
        else:
            advice = f"put it there, or name another in {field}"
            findings.append(Finding("file", field, BLOCK, f"{path} is not there", advice))
    for name, made in config.assets.items():
        state = "here" if Path(name).exists() else "will be made"
        licence = f", licence: {made.licence}" if getattr(made, "licence", None) else ""
        findings.append(Finding("prepared", name, FINE, f"{made.kind}, {state}{licence}"))
    return findings


def _corpora(config: Config) -> list[Finding]:
    findings = []
    for corpus in corpora(config):
        files, missing = corpus.files, corpus.missing
        found = (
            f"{len(files) - len(missing)} of {len(files)} files, {corpus.images or 'all'} images"
        )
        if missing:
            advice = f"{missing[0]} is missing; download it (docs/paper-scale.md says from where)"
            findings.append(Finding("corpus", corpus.field, BLOCK, found, advice))
        else:
            findings.append(Finding("corpus", corpus.field, FINE, found))
    return findings


def _plan(config: Config) -> list[Finding]:
    """Into how many jobs databases of several corpora are cut; their plan grows with these."""
    layout, made = Layout(config), set()
    for method in config.methods:
        try:
            if "codes" in layout.made_for(method):
                found = parts_of(layout, method)
                made |= {path for part in found for path in (part.listed, part.store)}
        except ArragError:  # something is missing, which is said elsewhere
            continue
    if len(made) <= MANY_JOBS:
        return []
    advice = f"raise database.images_per_job: up to {MANY_JOBS:,} are planned in a minute"
    return [Finding("plan", "database", WARN, f"{len(made):,} jobs to list and encode", advice)]


def _machine(config: Config, machine: Any, wanted_bytes: float) -> list[Finding]:
    found = [Finding("machine", "cores", FINE, str(machine.cores))]
    free, wanted = machine.disk / GIGABYTE, wanted_bytes / GIGABYTE
    about = f"{free:,.0f} GB free, about {wanted:,.1f} GB wanted"
    if free < wanted:
        advice = "free some, or link results/ and data/ to a larger disk"
        found.append(Finding("machine", "disk", BLOCK, about, advice))
    else:
        found.append(Finding("machine", "disk", FINE, about))
    largest = max(
        (known()["repositories"].get(str(r).partition("@")[0], {}).get("gigabytes", 0.0), str(r))
        for r in [*repositories(config), Reference("none/none", "main")]
    )
    memory = machine.memory / GIGABYTE
    if largest[0] > memory:
        advice = f"{largest[1]} has about {largest[0]} GB of weights; use a larger machine"
        found.append(Finding("machine", "memory", BLOCK, f"{memory:,.0f} GB", advice))
    else:
        found.append(Finding("machine", "memory", FINE, f"{memory:,.0f} GB"))
    if machine.gpu:
        about = f"{machine.gpu}, {machine.gpu_memory / GIGABYTE:,.0f} GB"
        small = machine.gpu_memory < largest[0] * GIGABYTE
        advice = f"{largest[1]} may not fit; lower its dtype or batch" if small else ""
        found.append(Finding("machine", "GPU", WARN if small else FINE, about, advice))
    elif config.scale == "paper":
        advice = "runs, but see the times below; use a machine with one"
        found.append(Finding("machine", "GPU", WARN, "none", advice))
    else:
        found.append(Finding("machine", "GPU", FINE, "none, none needed"))
    return found
