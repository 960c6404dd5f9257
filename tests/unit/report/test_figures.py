"""Figures 4 to 6: what they show is measured, against loops, and files are the same each time."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from report_data import read_rows

from arrag.cli.main import main
from arrag.config.root import load_config
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.metrics.memorization import patch_copy_rate
from arrag.pipeline.layout import Layout
from arrag.report.ablation import write_ablation
from arrag.report.figures import copying as figure_copying
from arrag.report.figures import distances as figure_distances
from arrag.report.figures.build import write_figure, write_figures
from arrag.report.figures.copying import figure5
from arrag.report.figures.distances import figure6
from arrag.report.figures.samples import figure4
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.errors import ArragError, ConfigError, MismatchError, MissingError

CODES, GRID = 12, (5, 6)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """20 random images over a codebook of uneven use."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("store")
    book = rng.normal(size=(CODES, 3)).astype(np.float32)
    grids = rng.choice(CODES, size=(20, *GRID), p=np.arange(1, CODES + 1) / 78)
    with StoreWriter(
        path, tokenizer_digest="t", grid=GRID, codebook=book, source="random", shard_size=7
    ) as writer:
        writer.add([str(i) for i in range(20)], grids)
    return TokenStore.open(path)


@pytest.mark.parametrize(("context", "border"), [("causal", "skip"), ("full", "zero")])
def test_figure_6_is_what_a_loop_measures(store, tmp_path, context, border):
    neighborhood = Neighborhood(context, border=border)
    build_index(store, tmp_path / "index", neighborhood=neighborhood, progress=False)
    index = open_index(tmp_path / "index", store)
    codes = torch.from_numpy(np.random.default_rng(1).integers(0, CODES, (11, *GRID)))
    k = 4
    found = figure_distances.measure(index, codes, k)
    book = store.codebook.astype(float)

    def key(grid, r, c):
        vectors = []
        for dr, dc in neighborhood.offsets:
            inside = 0 <= r + dr < GRID[0] and 0 <= c + dc < GRID[1]
            vectors.append(book[grid[r + dr, c + dc]] if inside else np.zeros(3))
        return np.concatenate(vectors)

    inside = np.flatnonzero(neighborhood.valid_positions(*GRID).numpy())
    places = [divmod(p, GRID[1]) for p in inside]
    entries = [
        (key(grid, r, c), int(grid[r, c])) for grid in store.grids(np.arange(20)) for r, c in places
    ]
    keys, values = np.array([e[0] for e in entries]), np.array([e[1] for e in entries])
    stored = store.grids(np.arange(20)).ravel()
    for image in (0, 10):
        grid, by_rank, uniform, database = codes[image].numpy(), [], [], []
        for r, c in places:
            near = np.argsort(((keys - key(grid, r, c)) ** 2).sum(1), kind="stable")[:k]
            true = book[grid[r, c]]
            by_rank.append([((book[values[n]] - true) ** 2).sum() for n in near])
            uniform.append(np.mean([((book[v] - true) ** 2).sum() for v in range(CODES)]))
            database.append(np.mean([((book[v] - true) ** 2).sum() for v in stored]))
        assert np.allclose(found.by_rank[image], np.mean(by_rank, axis=0), atol=1e-5)
        assert found.uniform[image] == pytest.approx(np.mean(uniform), abs=1e-6)
        assert found.database[image] == pytest.approx(np.mean(database), abs=1e-6)


def test_an_image_of_the_database_retrieves_its_own_codes(store, tmp_path):
    neighborhood = Neighborhood("full", border="zero")
    build_index(store, tmp_path / "index", neighborhood=neighborhood, progress=False)
    index = open_index(tmp_path / "index", store)
    codes = torch.from_numpy(store.grids(np.arange(3)).astype(np.int64))
    found = figure_distances.measure(index, codes, 2)
    assert np.allclose(found.by_rank[:, 0], 0) and (found.by_rank[:, 1] > 0.1).all()
    figure6(found, tmp_path / "figure6", "the database itself")
    lines = read_rows(tmp_path / "figure6.csv")
    assert [line["k"] for line in lines] == ["1", "2", "", ""]
    assert float(lines[0]["squared_distance"]) == pytest.approx(0)
    assert float(lines[3]["squared_distance"]) == pytest.approx(found.uniform.mean())
    with pytest.raises(MissingError):
        figure_distances.measure(index, codes[:0], 2)


@pytest.fixture
def copied(store):
    """Two methods on 6 prompts: the first copies half of its reference, the second nothing."""
    rng = np.random.default_rng(3)
    references, others = np.arange(6), np.arange(6) + 6
    grids = store.grids(np.concatenate([references, others]))
    half = rng.integers(0, CODES, (6, *GRID))
    half[:, :, :4] = grids[:6, :, :4]
    drawn = {"image": half, "patch": rng.integers(0, CODES, (6, *GRID))}
    prompts = [f"prompt {i}" for i in range(6)]
    return figure_copying.measure(drawn, prompts, grids, references, others, store.codebook), drawn


def test_copying_is_measured_against_the_reference_and_another_image(copied, store):
    found, drawn = copied
    for label, codes in drawn.items():
        for against, first in (("reference", 0), ("other", 6)):
            want = [
                patch_copy_rate(codes[i], store.grids(np.array([first + i]))[0]) for i in range(6)
            ]
            assert found.values[label]["share"][against].tolist() == want
    estimates = found.estimates()
    assert estimates["image", "share", "reference"].value == pytest.approx(0.5)  # 6 of 12 windows
    change = estimates["image", "share", "difference"]
    assert change.low > 0.4 and estimates["patch", "share", "difference"].holds(0)
    assert estimates["image", "similarity", "difference"].low > 0


def test_figure_5_shows_where_most_is_copied(copied, tmp_path):
    found, _ = copied
    pixels = np.random.default_rng(0).integers(0, 256, (3, 6, 8, 8, 3), dtype=np.uint8)
    pictures = dict(zip(("reference", "image", "patch"), pixels, strict=True))
    figure5(found, pictures, tmp_path / "figure5", shown=2)
    lines = read_rows(tmp_path / "figure5.csv")
    means = [line for line in lines if line["block"] == "mean"]
    assert len(means) == 2 * 2 * 3 and len(lines) == 12 + 2 * 2 * 2 * 6
    shares = [
        float(line["value"])
        for line in lines
        if (line["block"], line["method"], line["measure"], line["against"])
        == ("image", "image", "share", "reference")
    ]
    assert float(means[0]["value"]) == pytest.approx(np.mean(shares))
    for name in ("figure5.png", "figure5.pdf", "figure5-images.png", "figure5-images.pdf"):
        assert (tmp_path / name).stat().st_size > 1000
    with pytest.raises(MismatchError):
        figure_copying.measure(
            {"a": np.zeros((5, *GRID), int)}, found.prompts, np.zeros((12, *GRID), int),
            found.references, found.others, np.eye(CODES),
        )  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Two methods, three prompts, two samples; every sample has a colour of its own."""
    for m, method in enumerate(("vanilla", "daid")):
        for p in range(3):
            folder = tmp_path / method / f"{p:05d}" / "samples"
            folder.mkdir(parents=True)
            (folder.parent / "metadata.jsonl").write_text(json.dumps({"prompt": f"prompt {p}"}))
            for s in range(2):
                pixels = np.full((8, 8, 3), (10 + 100 * m, 50 + 60 * p, 30 + 100 * s), np.uint8)
                Image.fromarray(pixels).save(folder / f"{s:04d}.png")
    return {"Janus": tmp_path / "vanilla", "+ DAiD": tmp_path / "daid"}


def test_figure_4_has_every_sample_in_its_place(runs, tmp_path):
    figure4(runs, [2, 0], tmp_path / "figure4")
    with Image.open(tmp_path / "figure4.png") as image:
        picture = np.asarray(image.convert("RGB")).astype(int)
    middles = {}
    for m in range(2):
        for p in (2, 0):
            for s in range(2):
                color = (10 + 100 * m, 50 + 60 * p, 30 + 100 * s)
                ys, xs = np.nonzero((picture == color).all(-1))
                assert len(xs) > 10_000
                middles[m, p, s] = (np.median(ys), np.median(xs))
    for p in (2, 0):  # the samples of a prompt, in the methods' order, on one line
        line = [middles[m, p, s] for m in range(2) for s in range(2)]
        assert len({y for y, _ in line}) == 1 and [x for _, x in line] == sorted(x for _, x in line)
    assert middles[0, 2, 0][0] < middles[0, 0, 0][0]
    lines = read_rows(tmp_path / "figure4.csv")
    assert len(lines) == 8 and len({line["sha256"] for line in lines}) == 8
    assert lines[0]["text"] == "prompt 2" and lines[0]["file"].endswith("00002/samples/0000.png")


def test_figures_give_the_same_bytes_again(runs, tmp_path):
    for name in ("a", "b"):
        figure4(runs, [0], tmp_path / name / "figure4")
    for suffix in (".png", ".pdf", ".csv"):
        one, two = (tmp_path / name / f"figure4{suffix}" for name in ("a", "b"))
        assert one.read_bytes() == two.read_bytes()


def test_figure_4_without_its_samples_names_the_file(runs, tmp_path):
    (tmp_path / "daid/00001/samples/0001.png").unlink()
    with pytest.raises(ArragError) as raised:
        figure4(runs, [1], tmp_path / "figure4")
    assert str(raised.value.path).endswith("00001/samples/0001.png")
    with pytest.raises(ConfigError):
        figure4({}, [1], tmp_path / "figure4")


@pytest.fixture
def config(root, tmp_path, monkeypatch):
    """Write a changed micro-ci configuration and return its path."""
    monkeypatch.chdir(root)

    def write(change):
        document = yaml.safe_load((root / "config/micro-ci.yaml").read_text())
        change(document)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(document))
        return tmp_path / "config.yaml"

    return write


def test_the_folder_shows_the_figures_and_says_why_one_is_missing(config, tmp_path):
    path = config(lambda document: document["methods"].pop("racm3"))
    drawn, out = tmp_path / "drawn", tmp_path / "reports" / "figures"
    drawn.mkdir()
    with pytest.raises(MissingError) as raised:
        write_figures(load_config(path), drawn, out)
    assert raised.value.path == drawn / "figure4.png" and not out.exists()
    files = {f"figure{n}.{kind}" for n in (4, 6, 7) for kind in ("png", "pdf", "csv")}
    for file in files:
        (drawn / file).write_text(file)
    assert main(["report", "figures", f"--config={path}", f"--drawn={drawn}", f"--out={out}"]) == 0
    assert {path.name for path in out.glob("[!.]*")} == files | {"README.md"}
    page = (out / "README.md").read_text()
    shown = re.findall(r"!\[\w+\]\(([\w-]+)\.png\)", page)
    assert shown == ["figure4", "figure6", "figure7"] and "Micro scale" in page
    assert "Not made: methods: needs one with augment.kind racm3" in page


def test_a_figure_that_cannot_be_made_names_what_is_missing(config, root, tmp_path, monkeypatch):
    out, ci = tmp_path / "figures/figure7.png", Path("config/micro-ci.yaml")
    path = config(lambda document: document.update(grids={}, figures={}))

    def figure7(path):
        write_figure(load_config(path), path, "figure7", out, reports=tmp_path, open_method=None)

    with pytest.raises(ConfigError) as raised:
        figure7(path)
    assert (raised.value.path, raised.value.field) == (path, "figure7")
    with pytest.raises(MissingError) as raised:
        figure7(ci)  # before its grid
    assert raised.value.path == tmp_path / "ablation_daid.csv"
    assert "reports/ablation_daid.md" in raised.value.hint
    monkeypatch.setattr(Layout.__init__, "__defaults__", (tmp_path,))  # where nothing was made
    with pytest.raises(MissingError) as raised:
        write_ablation(load_config(ci), ci, "daid", tmp_path / "ablation_daid.md")
    assert raised.value.field == "grids.daid" and "reports/ablation_daid.md" in raised.value.hint


def test_figure_7_shows_the_grids_in_reports(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    out = tmp_path / "figures" / "figure7.png"
    assert main(["report", "figure", "7", "--config=config/micro.yaml", f"--out={out}"]) == 0
    lines = read_rows(out.with_suffix(".csv"))
    assert {line["grid"] for line in lines} == {"daid", "faid"}
    assert lines == read_rows(root / "reports/figures/figure7.csv")  # the committed one
