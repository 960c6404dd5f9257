"""The page of a run: what is in it, and that it is one safe file."""

import contextlib
import hashlib
import json
import re
import shutil
from base64 import b64decode, b64encode
from io import BytesIO

import numpy as np
import pytest
import torch
from markupsafe import escape
from page_run import EVIL, LAM, PROMPTS, TAU, WHY, K, make_project
from PIL import Image
from report_data import a_map, a_timing, make_score

from arrag.cli.main import main
from arrag.data.sample_dir import read_codes
from arrag.methods.registry import ArtifactPaths, open_method
from arrag.methods.runner import generate_images
from arrag.report.ablation import write_grid
from arrag.report.attribution import Blend, attribute_patches
from arrag.report.model import Table, TableRow
from arrag.report.page.build import Options, interval_chart, write_page
from arrag.report.page.patches import PatchDatabase, TracedMethod, data_uri, read_sample_codes
from arrag.report.page.run import Column
from arrag.report.render import write_report
from arrag.report.replay import SampleCodes, replay_samples
from arrag.report.table4 import make_table4
from arrag.utils.errors import ArragError


@pytest.fixture(scope="module")
def project(tmp_path_factory, root, tiny_janus):
    with contextlib.chdir(path := tmp_path_factory.mktemp("page")):
        yield make_project(path, root, tiny_janus)


def write(project, out, **options):
    config_path = project.path / "my <config>.yaml"
    return write_page(project.config, config_path, out, options=Options(**options))


@pytest.fixture(scope="module")
def page(project):
    reports = project.path / "reports"
    (reports / "figures").mkdir(parents=True)
    Image.new("RGB", (4, 4), "red").save(reports / "figures/lambda_tau.png")
    (reports / "ablation_lambda.csv").write_text('lam,fid,note\n0.1,12.345678,"<u>"\n0.2,7,\n')
    (reports / "table1.csv").write_text("an earlier one, of other scores")
    timing = a_timing()
    timing["rows"]["daid"]["label"] = "<b>"
    write_report(reports / "table4", *make_table4(timing))
    write_grid(a_map(name="one"), reports / "ablation_one")
    return write(project, project.path / "index.html"), (project.path / "index.html").read_text()


def data_of(html):
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    )


def test_says_what_it_holds_and_what_is_missing(page):
    said, html = page
    assert said["sections"] == [
        "table1", "table2", "table3", "table4", "figures", "ablation-lambda", "ablation-one",
        "origins", "gallery", "run",
    ]  # fmt: skip
    assert said["columns"] == ["vanilla", "daid"] and said["missing"] == ["real images"]
    assert said["traced"] == 3  # the first two prompts of each task, one image each
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
    # an ablation of no grid of the configuration, one of a grid, and Table 4, from their CSV files
    assert '<th scope="row">0.1000</th><td>12.3457</td><td>&lt;u&gt;</td>' in html
    assert '<h2 id="ablation-one-title">Ablation: a title</h2>' in html
    assert "Difference to Janus, paired by prompt" in html and "λ \\ τ" in html
    time = re.search(r'<th scope="row">&lt;b&gt;</th>(.*?)</tr>', html)[1]
    assert re.findall(r"<td>(?:<strong>)?([^<]*)", time) == ["5.72", "1.43", "+10.0"]
    red = b64decode(re.search(r'src="data:image/png;base64,([^"]*)" alt="Lambda tau"', html)[1])
    assert np.asarray(Image.open(BytesIO(red)))[0, 0].tolist() == [255, 0, 0]


def test_no_text_becomes_markup(page):
    _, html = page
    assert str(escape(EVIL)) in html and "<script>alert" not in html and "<img src=x" not in html
    assert "Janus &lt;i&gt;" in html and "Janus <i>" not in html
    assert "my &lt;config&gt;.yaml" in html
    assert html.count("<script") == 2 and html.count("</script>") == 2
    assert {sample["text"] for sample in data_of(html)["samples"]} == {p["prompt"] for p in PROMPTS}


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
        found = attribute_patches(codes, project.index, K, 6, Blend(LAM, TAU))
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
    drawn = project.tokenizer.decode(torch.from_numpy(first.astype(np.int64)))[0].astype(int)
    shown = Image.open(BytesIO(b64decode(base["pictures"][0].split(",")[1]))).convert("RGB")
    shown = np.asarray(shown.resize(drawn.shape[:2], Image.Resampling.BOX)).astype(int)
    assert abs(shown - drawn).mean() < 8  # lossy, and yet this image and no other


def test_codes_are_read_redrawn_or_left_out_but_never_guessed(project, tmp_path):
    folder = shutil.copytree(project.layout.samples("daid"), tmp_path / "daid")
    jobs = [(p, PROMPTS[p]["prompt"], s) for p in range(2) for s in range(2)]
    bare = folder / "00001/samples/0000.png"
    Image.open(bare).save(bare)  # without its codes, as an earlier version wrote it
    assert read_codes(bare) is None
    asked = []

    def redraw(pairs):
        asked.extend(pairs)
        return [SampleCodes(project.codes[1, 0])]

    def wrong(pairs):
        return [SampleCodes(project.codes[0, 0])]

    def codes(redraw):
        image = Column("daid", "DAiD", folder).image
        method = TracedMethod("daid", "DAiD", image, K, None, redraw)
        return read_sample_codes(method, PatchDatabase(0, project.index, project.tokenizer), jobs)

    assert asked == [] and set(codes(None)) == {(0, 0), (0, 1), (1, 1)}
    found = codes(redraw)
    assert asked == [("a photo of two cups", 0)]
    assert all(np.array_equal(found[p, s].codes, project.codes[p, s]) for p, _, s in jobs)
    assert set(codes(wrong)) == {(0, 0), (0, 1), (1, 1)}  # another image: not this one's codes
    bare.write_bytes(bare.read_bytes()[:-30])
    with pytest.raises(ArragError) as raised:
        codes(redraw)
    assert raised.value.path == bare


def test_a_generation_can_be_repeated(project):
    text = PROMPTS[0]["prompt"]
    at = {"store": project.layout.codes("daid"), "index": project.layout.index("daid")}
    generator = open_method(project.config, "daid", ArtifactPaths(**at))
    (found,) = replay_samples(generator, [(text, 1)], project.config.seed, None)
    drawn = generate_images(
        project.config, "daid", [text], seed=0, samples_per_prompt=2, paths=ArtifactPaths(**at)
    )
    assert np.array_equal(
        project.tokenizer.decode(torch.from_numpy(found.codes)[None])[0], drawn[1]
    )
    assert found.order.flatten().tolist() == list(range(found.codes.size))  # raster


def test_the_command(project, capsys):
    options = ["--prompts", "1", "--images", "1", "--traced-prompts", "1", "--neighbours", "2"]
    out = ["--out", "small.html", "--reports", "nowhere"]
    assert main(["report", "page", "--config", "config.yaml", "--json", *out, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["traced"] == 2 and "figures" not in said["sections"]
    html = (project.path / "small.html").read_text()
    assert html.count('<button type="button" class="tile') == 2 * 2  # one a task and method
    assert {len(found[2]) for found in data_of(html)["samples"][0]["patches"].values()} == {2}


def test_pictures_keep_their_pixels():
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)

    def back(uri):
        assert uri.startswith("data:image/webp;base64,")
        return np.asarray(Image.open(BytesIO(b64decode(uri.split(",")[1]))).convert("RGB"))

    assert np.array_equal(back(data_uri(image, lossless=True)), image)
    assert back(data_uri(image)).shape == (96, 96, 3)  # small ones are enlarged first
    assert back(data_uri(np.zeros((512, 384, 3), np.uint8))).shape == (256, 192, 3)


def test_the_chart_starts_at_zero(project):
    rows = [TableRow("a", "<a>"), TableRow("b", "b", kind="ceiling")]
    scores = {"a": {"geneval": make_score([0.5] * 6)}, "b": {"geneval": make_score([1.0] * 6)}}
    chart = interval_chart(Table("geneval", rows, scores, "micro", {}))
    first, second = chart["rows"]
    assert first["low"] < first["middle"] < first["high"] < second["middle"]
    share = (first["middle"] - chart["left"]) / (second["middle"] - chart["left"])
    assert share == pytest.approx(0.5, abs=0.01)
    assert (first["number"], first["ceiling"], second["ceiling"]) == ("0.500", False, True)
