"""What a piece of work takes, in seconds and bytes, given rates: plain arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from arrag.pipeline.doctor_rates import Rates

CODE_BYTES = 2
NAME_BYTES = 40  # of an image in a store
LISTED_BYTES = 16  # two numbers an image
# arrag/retrieval/ivf_lists.py: 1.8 √entries lists, but of 39 entries at least; what k-means sees.
LISTS, LEAST_ENTRIES, TRAINING_POINTS, ITERATIONS = 1.8, 39, 64, 10
FLOP_IN_TRAINING = 6  # a parameter and code


@dataclass(frozen=True)
class Cost:
    """seconds; bytes that stay on disk; basis: names of the rates; where: what is waited for."""

    seconds: float
    bytes: float = 0.0
    basis: tuple[str, ...] = ()
    where: str = "core"  # or cores, gpu, network


@dataclass(frozen=True)
class Keys:
    """Of a patch: neighbours whose codes are looked at, and numbers of a code's vector."""

    neighbours: int = 4
    dimension: int = 8

    @property
    def numbers(self) -> int:
        """Of a key."""
        return self.neighbours * self.dimension


class Costs:
    """gpu: whether there is one; cores: that work in parallel where a stage does."""

    def __init__(self, rates: Rates, gpu: bool, cores: int) -> None:
        self.rates, self.gpu, self.cores = rates, gpu, max(1, cores)

    def rate(self, name: str) -> float:
        """The value of a rate."""
        return self.rates[name].value

    def model(self, flop: float) -> Cost:
        """A model's forwards or steps."""
        if self.gpu:
            return Cost(flop / self.rate("gpu_flops"), 0, ("gpu_flops",), "gpu")
        return Cost(flop / self.rate("core_flops") / self.cores, 0, ("core_flops",), "cores")

    def download(self, size: float) -> Cost:
        """Bytes from elsewhere, and their digests."""
        seconds = size / self.rate("network_bytes") + size / self.rate("hash_bytes")
        return Cost(seconds, size, ("network_bytes", "hash_bytes"), "network")

    def listing(self, images: float) -> Cost:
        """Which images a corpus has."""
        seconds = images / self.rate("list_images")
        return Cost(seconds, LISTED_BYTES * images, ("list_images",))

    def decoding(self, images: float) -> Cost:
        """Files to square pixels."""
        return self._on_cores(images, "decode_images")

    def guarding(self, images: float) -> Cost:
        """Comparing with the test images."""
        return self._on_cores(images, "guard_images")

    def _on_cores(self, amount: float, name: str) -> Cost:
        return Cost(amount / self.rate(name) / self.cores, 0, (name,), "cores")

    def encoding(self, images: float, pixels: int, codes: int) -> Cost:
        """Pixels to codes."""
        size = images * (codes * CODE_BYTES + NAME_BYTES)
        if self.gpu:
            seconds = images * pixels / self.rate("encode_gpu")
            return Cost(seconds, size, ("encode_gpu",), "gpu")
        seconds = images * pixels / self.rate("encode_core") / self.cores
        return Cost(seconds, size, ("encode_core",), "cores")

    def joining(self, images: float, codes: int) -> Cost:
        """Reading and hashing all codes and names; nothing is copied."""
        size = images * (codes * CODE_BYTES + NAME_BYTES)
        seconds = size / self.rate("disk_read") + size / self.rate("hash_bytes")
        return Cost(seconds, 0, ("disk_read", "hash_bytes"))

    def lists(self, entries: float, positions: float, keys: Keys) -> list[tuple[str, Cost]]:
        """The parts of building inverted lists, on one core; positions: of all grids."""
        count = lists_over(entries)
        flop = 2 * count * keys.numbers  # an entry's
        each = self.rate("assign_flops")
        size = entries * list_bytes(positions, keys)
        written = entries / self.rate("layout_entries") + size / self.rate("disk_write")
        points = min(entries, TRAINING_POINTS * count)
        return [
            ("centroids", Cost(ITERATIONS * points * flop / each, 0, ("assign_flops",))),
            ("assignment", Cost(entries * flop / each, 0, ("assign_flops",))),
            ("layout", Cost(written, size, ("layout_entries", "disk_write"))),
        ]

    def scanning(self, queries: float, codes: float, together: int = 1) -> Cost:
        """Exact searches of all codes, ``together`` of them in one pass over grids to be sent.

        Without a GPU on one core, as those of lists are: a process searches on one.
        """
        if not self.gpu:
            return Cost(queries * codes / self.rate("scan_core"), 0, ("scan_core",))
        seconds, basis = queries * codes / self.rate("scan_entries"), ("scan_entries",)
        size = codes * CODE_BYTES
        if size > self.rate("gpu_memory") / 2:  # arrag/retrieval/device.py
            source = "bus_bytes" if size <= self.rate("host_memory") else "disk_read"
            seconds += queries / together * size / self.rate(source)
            basis += (source,)
        return Cost(seconds, 0, basis, "gpu")

    def probing(self, queries: float, entries: float, nprobe: int, keys: Keys) -> Cost:
        """Searches of inverted lists on one core; lists too large for memory are read."""
        count = max(nprobe, lists_over(entries))
        scanned, size = entries * nprobe / count, CODE_BYTES * (keys.neighbours + 1)
        each = 2 * count * keys.numbers / self.rate("assign_flops")
        seconds = queries * (each + scanned / self.rate("scan_lists"))
        if entries * size <= self.rate("host_memory"):
            return Cost(seconds, 0, ("scan_lists", "assign_flops"))
        seconds += queries * scanned * size / self.rate("disk_read")
        return Cost(seconds, 0, ("scan_lists", "assign_flops", "disk_read"))

    def training(self, parameters: float, codes: float) -> Cost:
        """One pass over so many codes."""
        return self.model(FLOP_IN_TRAINING * parameters * codes)


def lists_over(entries: float) -> float:
    """How many inverted lists an index has that does not say."""
    return max(1.0, min(LISTS * entries**0.5, entries / LEAST_ENTRIES))


def list_bytes(positions: float, keys: Keys) -> int:
    """Of an entry of inverted lists: its neighbours' codes, its own, and its number."""
    return CODE_BYTES * (keys.neighbours + 1) + (4 if positions <= 2**32 else 8)
