"""The steps between a number of a table and what it was made of, every digest computed anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrag.pipeline.records import SUFFIX, read_record
from arrag.pipeline.verify import changed_files
from arrag.report.measures import MEASURES, Scores
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.hashing import digest_of, sha256_file, sha256_json

TIMED = ("one", "best")
"""Blocks of Table 4's CSV."""

Parts = Mapping[str, Path]  # role -> where it lies
Step = tuple[str, str, str, str | None]  # a Link without its row


@dataclass(frozen=True)
class Link:
    """One step of a chain: what, where, what is recorded of it, and what is found there now.

    found: None if nothing can be computed here: it is only told.
    """

    row: str
    what: str
    path: str
    recorded: str
    found: str | None

    @property
    def holds(self) -> bool | None:
        """Whether both agree."""
        return None if self.found is None else self.found == self.recorded


class Chain:
    """The links of some rows of a table. cell: the number asked for."""

    def __init__(
        self, table: Mapping[str, Any], scores: Mapping[str, Any], cell: Mapping[str, str]
    ) -> None:
        self.table, self.recorded, self.cell = table, scores, cell
        self.scores: dict[str, Scores] = {}
        self.versions: dict[str, dict[str, str]] = {}

    def links_of(self, key: str) -> list[Link]:
        """From a row's scores to its codes."""
        about = self.table["rows"][key]
        parts = {role: Path(path) for role, path in about["parts"].items()}
        steps = [*self._scored(key, about["scores"], parts)]
        if run := self._run(key):
            steps += self._drawn(key, run, parts)
        steps += [*_made(parts), *_whole(parts.values())]
        return [Link(key, *step) for step in steps]

    def _scored(self, key: str, scores: Mapping[str, str], parts: Parts) -> Iterator[Step]:
        """Score files, what they were computed of, and by whom."""
        self.scores[key] = {}
        for metric, path in scores.items():
            digest = self.recorded[f"{metric} of {key}"]["digest"]
            yield f"{metric} file", path, digest, file_digest(path)
            if not Path(path).is_file():
                continue
            score = self.scores[key][metric] = read_json(path)
            if "rows" in score:  # a timing run
                continue
            self.versions[f"{metric} of {key}"] = score["versions"]
            if "sha256" in score.get("images", {}):
                yield _step("images", parts, "samples", score["images"]["sha256"])
            if "reference" in score:
                known = (parts["reference"] / "meta_data.json").is_file()
                digest = score["reference"]["sha256"]
                yield _step("reference", parts if known else {}, "reference", digest)
            yield from _judged(score["judge"], metric, parts)
            last = parts["samples"] / "run.json"
            if score["run"] and last.is_file():
                yield "run", str(last), sha256_json(score["run"]), sha256_json(read_json(last))

    def _run(self, key: str) -> Mapping[str, Any] | None:
        """What the scores, or a timing run, say of the drawing."""
        for score in self.scores[key].values():
            if "rows" in score:
                self.versions["timing"] = score["versions"]
                return score["rows"].get(key)
            if score["run"]:
                self.versions[f"samples of {key}"] = score["run"].get("versions", {})
                return score["run"]
        return None

    def _drawn(self, key: str, run: Mapping[str, Any], parts: Parts) -> Iterator[Step]:
        """Settings, prompts, weights and what was retrieved from."""
        if "config_hash" in run:
            now = config_hash(self.table["config"], key, self.table["benchmark"], run)
            yield "settings", self.table["config"], run["config_hash"], now
        if "prompt_set_sha256" in run:
            yield _step("prompts", parts, "prompts", run["prompt_set_sha256"])
        for role, digest in sorted(run.get("weights", {}).items()):
            if role != "tokenizer":
                yield _step(role, parts, role, digest)
                continue
            # A part of the backbone; what can be compared is who encoded the database.
            manifest = parts.get("codes", Path()) / "manifest.json"
            found = read_json(manifest)["tokenizer_digest"] if manifest.is_file() else None
            yield role, str(manifest if found else parts.get("backbone", "")), digest, found
        if run.get("index"):
            role = "index" if "index" in parts else "codes"
            yield _step(role, parts, role, run["index"])

    def value(self) -> str | None:
        """The number, computed anew from the scores; None without them."""
        key, name, block = (self.cell[field] for field in ("key", "name", "block"))
        scores = self.scores.get(key)
        if not scores:
            return None
        if block in TIMED:
            from arrag.report import table4  # which takes torch along

            timing = next(iter(scores.values()))
            return str(table4.timing_value(timing, key, block, name).value)
        measure = MEASURES[self.table["kind"]]
        if self.table["kind"] == "distribution" and name not in scores:
            name = next((metric for metric, s in scores.items() if s["label"] == name), name)
        if block != "difference":
            return str(measure.estimate(scores, name).value)
        other = self.scores.get(self.cell["baseline"])
        if not other:
            return None
        if name == "mcnemar_p":
            return str(measure.test(scores, other).p)
        return str(measure.differences(scores, other)[name].value)


def config_hash(config: str, key: str, benchmark: str, run: Mapping[str, Any]) -> str:
    """The hash of a row's settings as the configuration has them now; of a ceiling's own."""
    from arrag.config.methods import CEILING_LABELS
    from arrag.config.root import load_config

    if key in CEILING_LABELS:
        rest = {k: v for k, v in run.items() if k not in ("config_hash", "versions")}
        return sha256_json(rest)
    try:
        return load_config(config).config_hash(key, benchmark)
    except ArragError as error:
        return str(error)


def _step(what: str, parts: Parts, role: str, digest: str) -> Step:
    """A digest beside the one of what lies there now; only told if nobody knows where that is."""
    if role not in parts:
        return what, "", digest, None
    return what, str(parts[role]), digest, _there(parts, role)


def _judged(judge: Mapping[str, Any], metric: str, parts: Parts) -> Iterator[Step]:
    """The models that looked at the images."""
    if "digest" in judge:  # answers
        roles = [role for role in ("detector", "color", "judge") if role in parts]
        found = "+".join(_there(parts, role) for role in roles)
        yield "judge", judge["name"], judge["digest"], found or None
        return
    for role, field in (("detector", "detector"), ("color", "color"), (metric, "extractor")):
        if digest := judge.get(f"{field}_digest"):
            yield _step(f"{field} of {metric}", parts, role, digest)


def _made(parts: Parts) -> Iterator[Step]:
    """What index and adapter say they were made of, where that is there."""
    for role in ("index", "image_index"):
        meta = parts.get(role, Path()) / "meta.json"
        if role in parts and meta.is_file():
            yield _step(f"codes of {role}", parts, "codes", read_json(meta)["store_digest"])
    config = parts.get("adapter", Path()) / "config.json"
    if "adapter" in parts and config.is_file():
        training = read_json(config).get("training", {})
        # Pairs and index of an adapter that was not trained here lie elsewhere.
        known = parts if "pairs" in parts else {"backbone": parts["backbone"]}
        fields = {"backbone": "backbone", "pairs": "pairs_digest", "index": "index_digest"}
        for role, field in fields.items():
            if field in training:
                yield _step(f"{role} of adapter", known, role, training[field])


def _whole(paths: Iterable[Path]) -> Iterator[Step]:
    """Whether folders with a record hold what it says, byte for byte."""
    for path in dict.fromkeys(paths):
        record = path.with_name(path.name + SUFFIX)
        if record.is_file():
            files = len(read_record(record).files)
            wrong = len(list(changed_files(record, read_record(record))))
            yield "files", str(path), f"{files} files", f"{files - wrong} files"


def _there(parts: Parts, role: str) -> str:
    try:
        return digest_of(parts[role])
    except (ArragError, OSError, KeyError) as error:
        return f"missing ({error})"


def file_digest(path: str | Path) -> str:
    return sha256_file(path) if Path(path).is_file() else "missing"
