"""Whatever bytes a reader is given, it returns or raises ArragError, and nothing else."""

import json
import random
from contextlib import suppress
from pathlib import Path

import bad_files
import bad_texts
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from patch_indexes import UNIT, make_index, random_store
from PIL import Image

from arrag.config import hub
from arrag.config.root import load_config
from arrag.data.decontamination import Decontaminator
from arrag.data.images import decode
from arrag.data.mjhq import load_mjhq
from arrag.data.prompts import (
    load_captions,
    load_geneval_prompts,
    load_question_prompts,
    write_subset,
)
from arrag.data.questions import problems, read_questions
from arrag.data.sample_dir import codes_chunk, read_codes
from arrag.data.sources import open_source
from arrag.data.subsample import SubsampleSpec
from arrag.data.token_store import TokenStore
from arrag.methods.retrieval_gate import RecordedAnswers
from arrag.metrics.geneval.results import read_results, rejudge_records
from arrag.metrics.reference_stats import read_reference
from arrag.retrieval.index import open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.utils.checkpoint import read_file
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.globs import files_of

FEW = settings(
    max_examples=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
TOKENS = st.sampled_from(
    [b"\0", b"\n", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"-", b"&a", b"*a", b"!!int ",
     b"<<: ", b"\\ud800", b"9" * 50, b"NaN", b"null", b"\xff", b"\xe2\x80\xa8", b"../", b"e999"]
)  # fmt: skip


@st.composite
def mangled(draw, good):
    """``good`` with a few places cut, overwritten or filled in."""
    data = bytearray(good)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        piece = draw(TOKENS | st.binary(max_size=8))
        data[at : at + draw(st.integers(0, 12))] = piece
    return bytes(data)


def read_picture(path):
    decode("x", path, 8)
    read_codes(path)


def items(path):
    return [load() for _, load in open_source(str(path), None, None)]


def arrays(**members):
    return bad_files.zipped({f"{name}.npy": bad_files.npy(a) for name, a in members.items()})


def png_with_codes():
    codes = codes_chunk(np.arange(4).reshape(2, 2))
    return bad_files.encoded(Image.fromarray(np.zeros((8, 8, 3), np.uint8)), "PNG", pnginfo=codes)


ROOT = Path(__file__).resolve().parents[2]
PROMPTS, RESULTS = bad_texts.lines(bad_texts.PROMPT), bad_texts.lines(bad_texts.RESULT)
TABLE = f"{bad_texts.HEAD}\n{bad_texts.ROW}\n".encode()
MJHQ = json.dumps({"0a": {"category": "animals", "prompt": "a dog"}}).encode()
ANSWERS = bad_texts.lines({"prompt": "a dog", "sample": 0, "caption": "a red dog"})
SAMPLE = {"format": 1, "seed": 0, "largest": 9, "whole_names": False, "images": 1, "of": 2}
READERS = {
    "prompts.jsonl": (load_geneval_prompts, PROMPTS),
    "captions.jsonl": (load_captions, PROMPTS),
    "captions.json": (load_captions, MJHQ),
    "meta_data.json": (load_mjhq, MJHQ),
    "results.jsonl": (lambda path: rejudge_records(path, read_results(path)), RESULTS),
    "answers.jsonl": (lambda path: RecordedAnswers(path, "x"), ANSWERS),
    "questions.csv": (lambda path: problems(read_questions(path)), TABLE),
    "prompts.csv": (load_question_prompts, TABLE),
    "subset.csv": (lambda path: write_subset(path, path.with_name("few"), 1), TABLE),
    "subset.jsonl": (lambda path: write_subset(path, path.with_name("few"), 1), PROMPTS),
    "config.yaml": (load_config, (ROOT / "config/micro-ci.yaml").read_bytes()),
    "any.json": (read_json, MJHQ),
    "subsample.json": (SubsampleSpec.read, json.dumps(SAMPLE).encode()),
    "x.npz": (lambda path: read_reference(path).close(), arrays(feats=np.eye(3))),
    "moments.npz": (
        lambda path: read_reference(path).close(), arrays(mu=np.zeros(3), sigma=np.eye(3)),
    ),
    "x.npy": (read_reference, bad_files.npy(np.eye(3))),
    "x.prints.npz": (lambda path: Decontaminator.load([path]), arrays(names=np.array(["a"]))),
    "x.safetensors": (read_file, bad_files.safetensors()["other-names.safetensors"]),
    "x.bin": (read_file, bad_files.weights()["other-names.bin"]),
    "x.tar": (items, bad_files.tars()["twice.tar"][:3072] + bytes(1024)),
    "x.parquet": (items, bad_texts.parquets()["bad-images.parquet"]),
    "x.png": (read_picture, png_with_codes()),
    "x.jpg": (lambda path: decode("x", path, 8), bad_files.saved("JPEG")),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses(name, tmp_path):
    read, whole = READERS[name]
    path = tmp_path / name
    path.write_bytes(whole)
    if name != "x.prints.npz":
        read(path)  # it can be read at all

    @FEW
    @given(data=mangled(whole))
    def feed(data):
        path.write_bytes(data)
        try:
            read(path)
        except ArragError as error:
            assert str(error)

    feed()


@pytest.mark.parametrize("name", ["store/manifest.json", "index/meta.json"])
def test_stores_and_indexes(name, tmp_path):
    store = random_store(tmp_path / "store", UNIT, 6, (4, 4), shard_size=4)
    make_index(store, tmp_path / "index", Neighborhood("full"))
    whole = (tmp_path / name).read_bytes()
    values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )

    @FEW
    @given(data=mangled(whole), seed=st.integers(0, 999), value=values)
    def feed(data, seed, value):
        good = json.loads(whole)
        place = random.Random(seed).choice(list(bad_texts.places(good)))
        for one in (data, bad_texts.changed(good, place, value)):
            (tmp_path / name).write_bytes(one)
            with suppress(ArragError):
                open_index(tmp_path / "index", TokenStore.open(tmp_path / "store"))

    feed()


@FEW
@given(text=mangled(b"hub:owner/name@main#a.bin,*.pt:text/encoder"))
def test_references(text):
    try:
        reference, inside = hub.parse(text.decode("latin1"))
    except ValueError:
        return
    folder = reference.folder / inside
    assert folder.is_relative_to(hub.FOLDER) and ".." not in folder.parts
    assert hub.reference_of(reference.folder) == reference


@FEW
@given(text=mangled(b"a/{000..012}/{x,y}.tar"))
def test_patterns(text):
    with suppress(ArragError):
        assert files_of(text.decode("latin1") + ".tar")


@pytest.mark.parametrize("text", ["{0..999999999}.tar", "{a,b}" * 40 + ".tar"])
def test_a_pattern_of_too_many_files_is_refused(text):
    with pytest.raises(ArragError):
        files_of(text)
