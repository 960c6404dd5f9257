"""The page of a run: what is in it, and that it is one safe file."""

import contextlib
import hashlib
import json
import re
import shutil
from base64 import b64decode, b64encode
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from page_run import EVIL, LAM, PROMPTS, TAU, WHY, K, make_project
from PIL import Image

from arrag.cli.main import main
from arrag.cli.page import redraw_with
from arrag.data.sample_dir import read_codes
from arrag.methods.registry import ArtifactPaths
from arrag.methods.runner import generate_images
from arrag.report.origins import Blend, trace
from arrag.report.page.build import Options, write_page
from arrag.report.page.markup import island, picture
from arrag.report.page.patches import Base, Drawing, Followed, sample_drawings
from arrag.report.page.tables import csv_section, interval_chart
from arrag.report.render import Block, Cell, Page, markdown, number_text
from arrag.utils.errors import ArragError

TABLES = [("table1", "geneval"), ("table2", "dpg"), ("table3", "distribution")]


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, tiny_janus):
    with contextlib.chdir(path := tmp_path_factory.mktemp("page")):
        yield make_project(path, root, tiny_janus)


def write(project, out, **options):
    return write_page(
        project.config,
        "my <config>.yaml",
        out,
        tables=TABLES,
        options=Options(**options),
    )


@pytest.fixture(scope="module")
def page(project):
    reports = project.path / "reports"
    (reports / "figures").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(reports / "figures/lambda_tau.png")
    (reports / "ablation_lambda.csv").write_text('lam,fid,note\n0.1,12.345678,"<u>"\n0.2,7,\n')
    (reports / "table1.md").write_text("an earlier one, of other scores")
    timed = Block(
        "One image at a time", ["Method", "Seconds"], [[Cell("<b>", "bare"), Cell("1.5")]]
    )
    (reports / "table4.md").write_text(markdown(Page("Table 4: cost", "Micro scale.", [timed], [])))
    return write(project, project.path / "index.html"), (project.path / "index.html").read_text()


def data_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


def test_says_what_it_holds_and_what_is_missing(page):
    said, html = page
    assert said["sections"] == [
        "table1", "table2", "table3", "table4", "figures", "ablation-lambda",
        "origins", "gallery", "run",
    ]  # fmt: skip
    assert said["columns"] == ["vanilla", "daid"] and said["missing"] == ["real images"]
    assert said["followed"] == 3  # the first two prompts of each task, one image each
    assert "Not drawn yet: real images." in html
    assert "Not made yet: 4 of its 4 score files are missing." in html  # table 2
    assert "Not made yet: 12 of its 12 score files are missing." in html  # table 3
    assert "None of the measured numbers is a number of the paper" in html
    assert html.count('<button type="button" class="tile') == 2 * 3 * 2
    assert f'data-why="{escape(WHY)}"' in html


def test_tables_are_the_ones_of_the_other_forms(page):
    _, html = page
    assert "Measured at micro scale" in html and "Reported in the paper" in html
    row = re.search(r'<tr><th scope="row">\+ DAiD</th>(.*?)</tr>', html)[1]
    assert re.findall(r"<td>([^<]*)", row)[-1] == "0.500"
    assert "[0.480,\u00a00.520]" in row
    difference = re.search(r"\+ DAiD<small>minus Janus &lt;i&gt;</small></th>(.*?)</tr>", html)[1]
    assert "<strong>\u22120.300</strong>" in difference
    assert '<th scope="row">0.1000</th><td>12.3457</td><td>&lt;u&gt;</td>' in html  # ablation
    assert '<th scope="row">&lt;b&gt;<small>bare</small></th><td>1.5</td>' in html  # table 4
    red = b64decode(re.search(r'src="data:image/png;base64,([^"]*)" alt="Lambda tau"', html)[1])
    assert np.asarray(Image.open(BytesIO(red)))[0, 0].tolist() == [255, 0, 0]


def test_no_text_becomes_markup(page):
    _, html = page
    assert escape(EVIL) in html and "<script>alert" not in html and "<img src=x" not in html
    assert "Janus &lt;i&gt;" in html and "Janus <i>" not in html
    assert "my &lt;config&gt;.yaml" in html
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert {sample["text"] for sample in data_of(html)["samples"]} == {p["prompt"] for p in PROMPTS}
    assert json.loads(re.search(r">(.*)<", island("x", {"a": "</script>\u2028"}))[1]) == {
        "a": "</script>\u2028"
    }


def test_one_file_that_may_ask_for_nothing(page):
    _, html = page
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)[1]
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", html, re.S)[1]
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert set(re.findall(r"https?://[\w./-]+", html)) <= {"http://www.w3.org/2000/svg"}
    assert " style=" not in html and not re.search(r"<[^>]* on\w+=", html)


def test_the_same_run_gives_the_same_bytes(page, project):
    write(project, project.path / "again.html")
    assert (project.path / "again.html").read_text() == page[1]


def test_patches_are_those_of_a_direct_search(page, project):
    data = data_of(page[1])
    base = data["bases"][0]
    assert base["grid"] == list(project.tokenizer.grid)
    assert base["steps"] == [[-1, -1], [-1, 0], [-1, 1], [0, -1]]
    size = base["grid"][0] * base["grid"][1]
    store = project.index.store
    for sample in data["samples"]:
        codes = project.codes[sample["prompt"], sample["sample"]]
        assert sample["codes"] == codes.flatten().tolist() and sample["lam"] == LAM
        found = trace(codes, project.index, K, 6, Blend(LAM, TAU))
        assert sorted(map(int, sample["patches"])) == found.positions.tolist()
        for row, position in enumerate(found.positions):
            agreeing, drawn, nearest = sample["patches"][str(position)]
            assert agreeing == found.agreeing[row]
            assert drawn == pytest.approx(found.drawn_weight[row], rel=1e-3)
            for slot, (entry, code, distance, weight) in enumerate(nearest):
                image, place = divmod(int(found.entries[row, slot]), size)
                assert base["names"][entry // size] == store.keys(image)
                assert (entry % size, code) == (place, found.codes[row, slot])
                assert distance == pytest.approx(found.distances[row, slot], rel=1e-3)
                assert weight == pytest.approx(found.weights[row, slot], rel=1e-3)
    assert len(base["pictures"]) == len(base["names"]) == len(set(base["names"]))
    first = store.grids(np.array([int(re.findall(r"\d+", base["names"][0])[0])]))
    drawn = project.tokenizer.decode(np_tensor(first))[0].astype(int)
    shown = Image.open(BytesIO(b64decode(base["pictures"][0].split(",")[1]))).convert("RGB")
    shown = np.asarray(shown.resize(drawn.shape[:2], Image.Resampling.BOX)).astype(int)
    assert abs(shown - drawn).mean() < 8  # lossy, and yet this image and no other


def np_tensor(grids):
    import torch

    return torch.from_numpy(grids.astype(np.int64))


def test_codes_are_read_redrawn_or_left_out_but_never_guessed(project, tmp_path):
    folder = shutil.copytree(project.layout.samples("daid"), tmp_path / "daid")
    jobs = [(p, PROMPTS[p]["prompt"], s) for p in range(2) for s in range(2)]
    bare = folder / "00001/samples/0000.png"
    Image.open(bare).save(bare)  # without its codes, as an earlier version wrote it
    assert read_codes(bare) is None
    asked = []

    def redraw(pairs):
        asked.extend(pairs)
        return [Drawing(project.codes[1, 0])]

    def wrong(pairs):
        return [Drawing(project.codes[0, 0])]

    def codes(redraw):
        method = Followed("daid", "DAiD", folder, 0, K, None, redraw)
        return sample_drawings(method, Base(project.index, project.tokenizer), jobs)

    assert asked == [] and set(codes(None)) == {(0, 0), (0, 1), (1, 1)}
    found = codes(redraw)
    assert asked == [("a photo of two cups", 0)]
    assert all(np.array_equal(found[p, s].codes, project.codes[p, s]) for p, _, s in jobs)
    assert set(codes(wrong)) == {(0, 0), (0, 1), (1, 1)}  # another image: not this one's codes
    bare.write_bytes(bare.read_bytes()[:-30])
    with pytest.raises(ArragError, match=r"0000\.png: not a readable image"):
        codes(redraw)


def test_a_drawing_can_be_repeated(project):
    text = PROMPTS[0]["prompt"]
    redraw = redraw_with(project.config, Path("config.yaml"), "daid")
    (drawing,) = redraw([(text, 1)])
    at = {"store": project.layout.codes("daid"), "index": project.layout.index("daid")}
    drawn = generate_images(
        project.config, "daid", [text], seed=0, samples_per_prompt=2, paths=ArtifactPaths(**at)
    )
    assert np.array_equal(project.tokenizer.decode(np_tensor(drawing.codes[None]))[0], drawn[1])
    assert drawing.order.flatten().tolist() == list(range(drawing.codes.size))  # raster


def test_the_command(project, capsys):
    options = ["--prompts", "1", "--images", "1", "--followed", "1", "--neighbours", "2"]
    out = ["--out", "small.html", "--reports", "nowhere"]
    assert main(["report", "page", "--config", "config.yaml", "--json", *out, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["followed"] == 2 and "figures" not in said["sections"]
    html = (project.path / "small.html").read_text()
    assert html.count('<button type="button" class="tile') == 2 * 2  # one a task and method
    assert {len(found[2]) for found in data_of(html)["samples"][0]["patches"].values()} == {2}


def test_pictures_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)

    def back(uri):
        assert uri.startswith("data:image/webp;base64,")
        return np.asarray(Image.open(BytesIO(b64decode(uri.split(",")[1]))).convert("RGB"))

    assert np.array_equal(back(picture(image, lossless=True)), image)
    assert back(picture(image)).shape == (96, 96, 3)  # small ones are enlarged first
    assert back(picture(np.zeros((512, 384, 3), np.uint8))).shape == (256, 192, 3)


def test_small_parts(tmp_path):
    from arrag.metrics.bootstrap import Estimate

    rows = [("<a>", Estimate(0.5, 0.4, 0.6), False), ("b", Estimate(1.0, 1.0, 1.0), True)]
    chart = interval_chart("Overall", rows, 2)
    centres = [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', chart)]
    left, right = (
        float(x) for x in re.search(r'x1="([\d.]+)" x2="([\d.]+)"', chart[200:]).groups()
    )
    assert left < centres[0] < right < centres[1] and "&lt;a&gt;" in chart
    assert number_text(0.5, 2) in chart
    (tmp_path / "ablation_x.csv").write_text("a,b\n1\n")
    with pytest.raises(ArragError, match=r"ablation_x\.csv: its lines have unequal"):
        csv_section(tmp_path / "ablation_x.csv", "x", "X")
    (tmp_path / "ablation_x.csv").write_text("")
    with pytest.raises(ArragError, match=r"not a readable table"):
        csv_section(tmp_path / "ablation_x.csv", "x", "X")
