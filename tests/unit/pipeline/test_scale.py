"""The arithmetic of `arrag doctor --scale`, beside what is really built, and docs/scale.md."""

import json

import numpy as np
import pytest
import yaml

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.pipeline.doctor_costs import NAME_BYTES, Costs, Keys, list_bytes
from arrag.pipeline.doctor_rates import Rate, assumed
from arrag.pipeline.doctor_scale import CODES, FOUND, SIZES, images_per_job, limits, rows
from arrag.pipeline.doctor_scale_tables import as_markdown, kept, table
from arrag.retrieval.index import build_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.globs import num_source_parts

PRINTED = "<!-- printed by arrag doctor --scale -->\n\n"


def test_the_page_holds_what_the_command_prints(root, capsys):
    assert main(["doctor", "--scale"]) == 0
    page = (root / "docs/scale.md").read_text(encoding="utf-8")
    assert page.partition(PRINTED)[2] == capsys.readouterr().out


def test_own_prices_and_rates_take_the_place_of_the_assumed(tmp_path, capsys):
    def numbers(*options):
        assert main(["doctor", "--scale", "--json", *options]) == 0
        said = json.loads(capsys.readouterr().out)
        return {row["name"]: row for row in said["sizes"]["1000000"]}

    own = tmp_path / "mine.yaml"
    own.write_text("gpu_hour: 5\nencode_gpu: 11.8e6\n")  # twice the price, half the speed
    before, after = numbers(), numbers("--rates", str(own))
    assert after["encode"]["dollars"] == pytest.approx(4 * before["encode"]["dollars"])
    assert after["train FAiD"]["dollars"] == pytest.approx(2 * before["train FAiD"]["dollars"])
    assert after["join"] == before["join"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu_hours: 2", "gpu_hours: no such rate; these are: core_flops"),
        ("gpu_hour: free", "gpu_hour: found 'free'; use a number above 0"),
        ("gpu_hour: 0", "gpu_hour: found 0; use"),
        ("gpu_hour", "found 'gpu_hour'; write lines of `name: number`"),
        ("{", "cannot be read"),
    ],
)
def test_wrong_rates_are_one_line(tmp_path, capsys, text, said):
    own = tmp_path / "mine.yaml"
    own.write_text(text)
    assert main(["doctor", "--scale", "--rates", str(own)]) == 2
    error = capsys.readouterr().err
    assert f"{own}: {said}" in error and error.count("\n") == 1


@pytest.mark.parametrize("context", ["causal", "full"])
def test_bytes_and_lists_are_those_of_a_real_index(tmp_path, context):
    rng = np.random.default_rng(0)
    side, images = 12, 40
    with StoreWriter(
        tmp_path / "s", tokenizer_digest="t", grid=(side, side),
        codebook=rng.normal(size=(64, 8)), source="", shard_size=images,
    ) as writer:  # fmt: skip
        grids = rng.integers(0, 64, (images, side, side))
        writer.add([f"{i:0{NAME_BYTES - 8}d}.jpg" for i in range(images)], grids)
    around = Neighborhood(context)
    meta = build_index(
        TokenStore.open(tmp_path / "s"), tmp_path / "i", neighborhood=around, mode="ivf",
        progress=False,
    )  # fmt: skip
    keys = Keys(neighbours=len(around.offsets))
    entries, positions = meta["entries"], images * side**2
    built = meta["bytes_per_patch"] + meta["id_bytes_per_patch"]
    assert list_bytes(positions, keys) == built
    assert entries == images * ((side - 1) * (side - 2) if context == "causal" else (side - 2) ** 2)
    costs = Costs(assumed() | {"assign_flops": Rate(1, "", "")}, False, 1)
    seconds = dict(costs.lists(entries, positions, keys))["assignment"].seconds
    assert seconds == pytest.approx(2 * entries * meta["nlist"] * keys.numbers, rel=0.01)
    written = sum(f.stat().st_size for f in (tmp_path / "s").glob("shard*"))
    estimated = costs.encoding(images, 1, side**2).bytes
    assert written == pytest.approx(estimated, rel=0.05)


def test_limits_are_where_their_costs_turn():
    rates = assumed()
    found = {limit.choice: limit.images for limit in limits(rates)}
    costs = Costs(rates, True, 1)
    for choice, name in (
        ("exact, grids on one GPU", "bus_bytes"),
        ("exact, grids in the host's memory", "disk_read"),
    ):
        below, above = (
            costs.scanning(1, factor * found[choice] * CODES).basis for factor in (0.99, 1.01)
        )
        assert name not in below and name in above
    at = found["exact on one GPU, no slower than drawing"]
    assert costs.scanning(CODES, at * CODES).seconds == pytest.approx(costs.rate("raster_seconds"))
    at = found["ivf built on one core in a week"] * np.array([1, FOUND, CODES])
    built = sum(cost.seconds for _, cost in costs.lists(at[1], at[2], Keys()))
    assert built == pytest.approx(7 * 86_400)
    at = found["ivf lists in one host's memory"]
    size = dict(costs.lists(at * FOUND, at * CODES, Keys()))["layout"].bytes
    assert size == pytest.approx(costs.rate("host_memory"))


def test_jobs_are_those_of_the_paper_s_plan(root):
    samples = load_config(root / "config/paper.yaml").database.samples.values()
    parts = sum(num_source_parts(s.source, s.images, 100_000) for s in samples)
    jobs = {row.name: row.jobs for row in rows(assumed(), 13_600_000)}
    assert jobs["decode and resize"] == parts and jobs["list and choose"] == parts + 1
    for images in SIZES:
        planned = sum(row.jobs for row in rows(assumed(), images))
        assert planned < 10_000 and images / images_per_job(images) <= 1000


def test_a_run_has_one_way_to_search():
    found = rows(assumed(), SIZES[0])
    exact, ivf = ({row.name for row in kept(found, search)} for search in ("exact", "ivf"))
    assert {name for name in exact - ivf} == {
        "retrieve for training, exact",
        "search while drawing, exact",
    }
    assert "ivf: layout" in ivf - exact and "encode" in exact & ivf


def test_tables_are_markdown():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert as_markdown(assumed()).count("\n## ") == 5


def test_more_jobs_than_are_planned_in_a_minute_are_a_warning(root, tmp_path, monkeypatch):
    from arrag.pipeline.doctor import WARN, _plan

    for part in ("config", "checkpoints", "benchmarks"):
        (tmp_path / part).symlink_to(root / part)
    monkeypatch.chdir(tmp_path)
    assert _plan(load_config("config/paper.yaml")) == []
    raw = {"base": "config/paper.yaml", "database": {"images_per_job": 1}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    (finding,) = _plan(load_config("mine.yaml"))
    # 3664 files: no part is less than one. Listed once, encoded for two tokenizers.
    assert finding.state == WARN and finding.found.startswith("10,992 jobs")
