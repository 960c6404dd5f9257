"""Where the parts of a database of several corpora lie, until they are joined.

Lists and choices belong to a corpus and serve every tokenizer; a part's store belongs to a corpus,
a tokenizer and what is excluded, so that two databases that share a corpus share its parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from arrag.config.database import Database, Sample
from arrag.pipeline.layout import KEY_LENGTH, Layout
from arrag.utils.globs import num_source_parts, source_part
from arrag.utils.hashing import sha256_json


@dataclass(frozen=True)
class CorpusPart:
    """Part ``number`` of ``of`` of a corpus. source: its files; the others: what is made of it."""

    sample: Sample
    source: str
    number: int
    of: int
    listed: Path
    choice: Path
    store: Path


def corpus_parts(layout: Layout, method: str) -> list[CorpusPart]:
    """The parts of a method's database, in the order in which they are joined."""
    database = layout.config.resolved(method).database
    stores = layout.results / "code-parts" / layout.tokenizer(method)
    excluded = layout.excluded_digest(database) if database.exclude else None
    found = []
    for sample in database.sources or ():
        count = num_source_parts(sample.source, sample.images, database.images_per_job)
        corpus = corpus_of(layout, sample, count)
        choice = corpus / f"choice-{sample.images or 'all'}.json"
        store = stores / f"{corpus.name}-{sha256_json([choice.name, excluded])[:KEY_LENGTH]}"
        found += [
            CorpusPart(
                sample,
                source_part(sample.source, i, count),
                i,
                count,
                corpus / f"{i:05d}.npz",
                choice,
                store / f"{i:05d}",
            )
            for i in range(count)
        ]
    return found


def corpus_of(layout: Layout, sample: Sample, parts: int) -> Path:
    """Folder of a corpus's lists and choices, given in how many parts it is listed."""
    key = sha256_json([sample.source, sample.seed, parts])[:KEY_LENGTH]
    return layout.results / "corpora" / f"{sample.name}-{key}"


def fingerprints_path(layout: Layout, database: Database) -> Path:
    """Fingerprints of the test images that a database is kept free of."""
    key = layout.excluded_digest(database)[:KEY_LENGTH]
    return layout.results / "test-images" / f"{key}.prints.npz"
