"""Pack a finished run as an RO-Crate 1.1, by the profile Workflow Run Crate 0.5.

The crate holds copies of the workflow, its configuration, the tables, the scores, and of each stage
the file that describes it with its record, which has the SHA-256 of every image and shard. Images,
shards and weights are named by path and digest alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from arrag.config.loader import BASE, read_yaml
from arrag.pipeline.layout import SENTINEL_FILES
from arrag.pipeline.records import Record, read_record, record_of, write_record
from arrag.utils.errors import FormatError, MismatchError, MissingError
from arrag.utils.files import read_json
from arrag.utils.hashing import sha256_file
from arrag.utils.outputs import atomic_path

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
APACHE = "https://spdx.org/licenses/Apache-2.0"
SHA256 = {"sha256": "https://w3id.org/ro/terms/workflow-run#sha256"}
WORKFLOW = ("workflow/rules/*.smk", "profiles/default/*.yaml", "requirements/*.txt")
ABOUT = ("README.md", "LICENSE", "data/micro/LICENSES.md", "data/weights/*/LICENSES.md")
LAST = {*SENTINEL_FILES.values(), "run.json", "meta_data.json"}


def write_crate(config: str | Path, reports: list[Path], out: str | Path) -> ROCrate:
    """Write the crate of some reports, with its record, and read it back.

    Called in the project's folder, whose paths the crate keeps.

    Args:
        config: The run's configuration file.
        reports: The Markdown of tables or ablations, each with its record.
        out: The folder to write.

    Raises:
        MissingError: A report has no record, or a file of the run is missing.
    """
    tables: dict[Path, Record] = {}
    for report in reports:
        path = record_of(report)
        if not path.is_file() or (record := read_record(path)).table is None:
            hint = f"make {report} again"
            raise MissingError("no such record of a table", path=path, hint=hint)
        tables[report] = record
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms |= SHA256
    names = ", ".join(report.stem for report in reports)
    crate.name = f"arrag: {names}"
    crate.description = (
        f"A run of the workflow of arrag (AR-RAG, arXiv 2506.06962) with {config}: {names}. The "
        "records beside the files hold the SHA-256 of every image, shard and weight."
    )
    license = _add_entity(crate, APACHE, "CreativeWork", name="Apache License 2.0")
    crate.license = license
    main = {"main": True, "lang": "snakemake", "properties": _of_file(Path("Snakefile"))}
    workflow = crate.add_workflow("Snakefile", "Snakefile", **main)
    workflow["license"] = license
    others = [p for pattern in (*WORKFLOW, *ABOUT) for p in sorted(Path().glob(pattern))]
    files = {path: _add(crate, path) for path in others}
    workflow["hasPart"] = [f for path, f in files.items() if path.suffix == ".smk"]
    settings = [_add(crate, path) for path in _with_bases(Path(config))]
    results = []
    for report, record in tables.items():
        forms = [report.parent / name for name in record.files]
        results += [_add(crate, path) for path in (*forms, record_of(report))]
    made, used, versions = _rows(crate, tables)
    workflow["softwareRequirements"] = [
        _add_entity(crate, f"#{name}-{v}", "SoftwareApplication", name=name, softwareVersion=v)
        for name, v in sorted(versions)
    ]
    action = crate.add_action(
        workflow,
        identifier="#run",
        object=[*settings, *used],
        result=[*results, *made],
        properties={"name": f"The run that made {names}", **_times(reports)},
    )
    crate.root_dataset["mentions"] = [action]
    _parameters(crate, workflow, settings[0], tables)
    crate.root_dataset["datePublished"] = action["endTime"]
    crate.root_dataset["conformsTo"] = [
        _add_entity(crate, url, "CreativeWork", name=name, version=url.rsplit("/")[-1])
        for url, name in PROFILES.items()
    ]
    with atomic_path(out) as folder:
        crate.write(folder)
    write_record(out)
    return check_crate(out)


def check_crate(folder: str | Path) -> ROCrate:
    """Read a crate and compare its files with the SHA-256 that it states.

    Raises:
        FormatError: It cannot be read.
        MismatchError: A file is missing or another.
    """
    try:
        crate = ROCrate(folder)
    except (OSError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise FormatError(f"not a readable RO-Crate ({error})", path=folder) from None
    for entity in crate.data_entities:
        stated, path = entity.get("sha256"), Path(folder, unquote(entity.id))
        if stated and not (path.is_file() and sha256_file(path) == stated):
            message = "missing, or not the file that the crate states"
            raise MismatchError(message, path=path, hint="make the crate again")
    return crate


def _rows(crate: ROCrate, tables: dict[Path, Record]) -> tuple[list, list, set]:
    """Results of the rows, inputs from outside the workflow, and (library, version) of both."""
    made, used, versions = {}, {}, set()
    for record in tables.values():
        for row in record.table["rows"].values():
            for path in map(Path, row["scores"].values()):
                made |= {p: _add(crate, p) for p in _described(path)}
                score = read_json(path)
                for found in (score, score.get("run") or {}):
                    versions |= {*found.get("versions", {}).items()}
            for role, path in row["parts"].items():
                for file in _described(Path(path)):
                    made[file] = _add(crate, file)
                if not record_of(path).is_file() and path not in used:
                    used[path] = _outside(crate, role, Path(path), row)
    return [*made.values()], [thing for thing in used.values() if thing], versions


def _described(path: Path) -> Iterator[Path]:
    """A score, or the file that describes a stage's folder, with its record."""
    if record_of(path).is_file():
        files = [path / name for name in sorted(LAST)] if path.is_dir() else [path]
        yield from (file for file in files if file.is_file())
        yield record_of(path)


def _outside(crate: ROCrate, role: str, path: Path, row: dict[str, Any]) -> Any:
    """Weights or prompts, which the crate only names, with the digest in the samples' record."""
    sources: dict[str, Any] = {}
    for result in (row["parts"]["samples"], *row["scores"].values()):
        if record_of(result).is_file():
            sources |= read_record(record_of(result)).made_of
    digest = next((s.digest for s in sources.values() if s.path == str(path)), None)
    if digest is None:
        return None
    about = {"name": f"{role}: {path}", "sha256": digest}
    return _add_entity(crate, f"#{path}", "CreativeWork", **about)


def _add(crate: ROCrate, path: Path) -> Any:
    """Add a file of the project under its own path; one from outside under ``elsewhere/``."""
    inside = not path.is_absolute() and ".." not in path.parts
    name = path.as_posix() if inside else f"elsewhere/{path.name}"
    if not path.is_file():
        raise MissingError("no such file; the run was made with it", path=path, hint="restore it")
    return crate.get(name) or crate.add_file(path, name, properties=_of_file(path))


def _add_entity(crate: ROCrate, identifier: str, type: str, **properties: Any) -> ContextEntity:
    about = {"@type": type, **properties}
    return crate.add(ContextEntity(crate, identifier, properties=about))


def _of_file(path: Path) -> dict[str, str]:
    size = str(path.stat().st_size)
    return {"name": path.as_posix(), "contentSize": size, "sha256": sha256_file(path)}


def _with_bases(config: Path) -> Iterator[Path]:
    """A configuration and those it is based on."""
    yield config
    if base := read_yaml(config).get(BASE):
        yield from _with_bases(config.parent / base)


def _parameters(crate: ROCrate, workflow: Any, config: Any, tables: dict[Path, Any]) -> None:
    """Declare the workflow's input and outputs, of which the run's files are examples."""
    wanted = {"configuration": config} | {r.stem: crate.get(r.as_posix()) for r in tables}
    found = []
    for name, example in wanted.items():
        parameter = crate.add_formal_parameter(name, "File", f"#{name}", valueRequired=True)
        if example is not None:
            example["exampleOfWork"] = parameter
        found.append(parameter)
    workflow["input"], workflow["output"] = found[:1], found[1:]


def _times(reports: list[Path]) -> dict[str, str]:
    """Start of the run, as the workflow recorded it, and time of its last report."""
    since = Path("results/.since")
    times = {"endTime": max(report.stat().st_mtime for report in reports)}
    if since.is_file():
        times["startTime"] = min(since.stat().st_mtime, times["endTime"])
    moments = {field: datetime.fromtimestamp(moment, UTC) for field, moment in times.items()}
    return {field: moment.isoformat(timespec="seconds") for field, moment in moments.items()}
