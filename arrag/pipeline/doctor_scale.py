"""What databases of a million to a billion images take: the tables of docs/scale.md, from rates.

One run of DAiD and FAiD with a generator of Janus-Pro-1B's size, on one GPU and its host's cores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from arrag.pipeline.doctor_costs import CODE_BYTES, LISTS, Cost, Costs, Keys, list_bytes
from arrag.pipeline.doctor_rates import Rates

SIZES = (1_000_000, 13_600_000, 100_000_000, 1_000_000_000)  # images
SIDE, PIXELS, PARAMETERS = 24, 384, 1e9  # of Janus-Pro-1B: codes and pixels a side
CODES, FOUND = SIDE**2, (SIDE - 1) * (SIDE - 2)  # of an image; at the border is no key
KEYS, NPROBE = Keys(), 32
PAIRS, PAIRS_TOGETHER = 50_000, 8  # of a training; arrag/training/neighbours.py
DRAWN, DRAWN_TOGETHER = 30_000, 16  # of MJHQ-30K; batch_size
SCORES = 3  # CMMD, FID, FWD
IMAGES_PER_JOB, MANY_PARTS = 100_000, 1000
HELD = 2**32  # bytes of grids that an exact scan on the processor holds: arrag/retrieval/exact.py
MAPS = 65_530  # Linux's vm.max_map_count; a shard is one
SHARD = 10_000  # images, config/paper.yaml
JOBS, TOKENIZERS = 10_000, 2  # that are planned in a minute; of config/paper.yaml
HOSTS = 10
WEEK = 7 * 86_400


@dataclass(frozen=True)
class Row:
    """A stage of one size. search: exact or ivf if it belongs to one of them alone."""

    name: str
    cost: Cost
    jobs: int = 0
    search: str | None = None


def rows(rates: Rates, images: int) -> list[Row]:
    """The stages in the order of a run; jobs are counted where they begin."""
    costs = Costs(rates, True, int(rates["cores"].value))
    parts = -(-images // images_per_job(images))
    codes, entries = images * CODES, images * FOUND
    asked = {"retrieve for training": (PAIRS * CODES, PAIRS_TOGETHER * CODES),
             "search while drawing": (DRAWN * CODES, DRAWN_TOGETHER)}  # fmt: skip
    searches = [
        row
        for name, (queries, together) in asked.items()
        for row in (
            Row(f"{name}, exact", costs.scanning(queries, codes, together), 0, "exact"),
            Row(f"{name}, ivf", costs.probing(queries, entries, NPROBE, KEYS), 0, "ivf"),
        )
    ]
    searches[-1] = replace(searches[-1], cost=replace(searches[-1].cost, where="gpu"))  # it waits
    forwards = DRAWN * costs.rate("raster_seconds")
    judged = SCORES * DRAWN * costs.rate("distance_seconds")
    return [
        Row("download", costs.download(images * costs.rate("image_bytes"))),
        Row("list and choose", costs.listing(images), parts + 1),
        Row("decode and resize", costs.decoding(images), parts),
        Row("compare with test images", costs.guarding(images), 1),
        Row("encode", costs.encoding(images, PIXELS**2, CODES)),
        Row("join", costs.joining(images, CODES), 1),
        *(
            Row(f"ivf: {name}", cost, int(name == "layout"), "ivf")
            for name, cost in costs.lists(entries, codes, KEYS)
        ),
        *searches[:2],
        Row("train FAiD", costs.training(PARAMETERS, PAIRS * CODES), 3),
        Row("draw 30,000 images", Cost(forwards, 0, ("raster_seconds",), "gpu"), 1),
        *searches[2:],
        Row("score them thrice", Cost(judged, 0, ("distance_seconds",), "gpu"), SCORES),
    ]


def images_per_job(images: int) -> int:
    """The configuration's, raised once there are too many parts."""
    return max(IMAGES_PER_JOB, images // MANY_PARTS)


def dollars(rates: Rates, cost: Cost) -> float:
    """Of the time; what is waited for is paid."""
    cores = {"gpu": 0, "cores": rates["cores"].value}.get(cost.where, 1)
    hour = cores * rates["core_hour"].value + (cost.where == "gpu") * rates["gpu_hour"].value
    return cost.seconds / 3600 * hour


@dataclass(frozen=True)
class Limit:
    """Up to how many images a choice holds, why, and what must take its place."""

    choice: str
    images: float
    arithmetic: str
    then: str


def limits(rates: Rates) -> list[Limit]:
    """Where a choice must change."""
    costs, of = Costs(rates, True, 1), {name: rate.value for name, rate in rates.items()}
    grid, number = CODE_BYTES * (CODES + 1), 2**32
    listed = FOUND * list_bytes(number + 1, KEYS)

    def building(n: float) -> float:
        return sum(cost.seconds for _, cost in costs.lists(n * FOUND, n * CODES, KEYS))

    def probing(n: float) -> float:
        return costs.probing(CODES, n * FOUND, NPROBE, KEYS).seconds

    return [
        Limit(
            "exact on the processor, laid out once",
            HELD / (CODE_BYTES * CODES),
            f"4 GiB / ({CODE_BYTES} bytes x {CODES} codes)",
            "it lays the rest out at every search: `ivf`, or a GPU",
        ),
        Limit(
            "ivf, entries' numbers of 4 bytes",
            number / CODES,
            f"2^32 / {CODES} codes",
            f"nothing: they take 8, an entry {list_bytes(number + 1, KEYS)} bytes instead of "
            f"{list_bytes(number, KEYS)}",
        ),
        Limit(
            "exact on one GPU, no slower than drawing",
            of["raster_seconds"] * of["scan_entries"] / CODES**2,
            f"raster_seconds x scan_entries / ({CODES} queries x {CODES} codes)",
            "the search is the longer part: `ivf`, or several GPUs with a part of the grids each "
            "(not built)",
        ),
        Limit(
            "ivf on one core, no slower than drawing",
            _largest(lambda n: probing(n) <= of["raster_seconds"]),
            f"{CODES} queries, each {NPROBE / LISTS:.0f} √entries at scan_lists and "
            f"{2 * LISTS * KEYS.numbers:.0f} √entries FLOP at assign_flops, within raster_seconds",
            "more jobs beside each other, or a search on the GPU",
        ),
        Limit(
            "ivf built on one core in a week",
            _largest(lambda n: building(n) <= WEEK),
            f"assignment: {LISTS} √entries lists x {KEYS.numbers} numbers x 2, "
            f"{2 * LISTS * KEYS.numbers:.0f} x entries^1.5 FLOP at assign_flops",
            "assignment on a GPU or by parts on many hosts, to the same centroids (not built)",
        ),
        Limit(
            "ivf lists in one host's memory",
            of["host_memory"] / listed,
            f"host_memory / ({FOUND} entries x {list_bytes(number + 1, KEYS)} bytes)",
            "searches read the disk; or sharded lists, a host each, their nearest merged "
            "(not built)",
        ),
        Limit(
            f"ivf, lists in the memory of {HOSTS} hosts (not built)",
            HOSTS * of["host_memory"] / listed,
            f"{HOSTS} x the same",
            f"more hosts, {1e9 * listed / of['host_memory']:.0f} for a billion images; or entries "
            "of fewer bytes, with distances no longer exact",
        ),
        Limit(
            "exact, grids on one GPU",
            of["gpu_memory"] / 2 / grid,
            f"gpu_memory / 2 / ({CODE_BYTES} bytes x {CODES + 1})",
            "grids are sent again at every step, and cost bus_bytes",
        ),
        Limit(
            "exact, grids in the host's memory",
            of["host_memory"] / (CODE_BYTES * CODES),
            f"host_memory / ({CODE_BYTES} bytes x {CODES})",
            "grids are read from the disk at every step: not to be waited for",
        ),
        Limit(
            "images_per_job as it is",
            JOBS * IMAGES_PER_JOB / (1 + TOKENIZERS),
            f"{JOBS:,} jobs x {IMAGES_PER_JOB:,} / (1 to list + {TOKENIZERS} tokenizers)",
            "raise it; jobs are longer, and the plan as short as before",
        ),
        Limit(
            "shard_size as it is",
            MAPS * SHARD,
            f"{MAPS:,} maps of memory a process (Linux) x {SHARD:,}",
            "raise it, or the system's vm.max_map_count",
        ),
    ]


def _largest(holds: Callable[[float], bool]) -> float:
    """The largest number up to 10^15 for which it holds, by halving in its logarithm."""
    low, high = 0.0, 15.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(10**middle) else (low, middle)
    return 10**low


def as_json(rates: Rates) -> dict[str, Any]:
    """All numbers."""
    return {
        "sizes": {
            str(n): [asdict(row) | {"dollars": dollars(rates, row.cost)} for row in rows(rates, n)]
            for n in SIZES
        },
        "limits": [asdict(limit) for limit in limits(rates)],
        "rates": {name: asdict(rate) for name, rate in rates.items()},
    }
