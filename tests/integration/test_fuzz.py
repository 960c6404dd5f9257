"""Whatever bytes a reader is given, it returns or raises ArragError, and nothing else."""

import json
import random
from contextlib import suppress

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
    max_examples=20,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
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


def picture_with_codes(path):
    image = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    image.save(path, pnginfo=codes_chunk(np.arange(4).reshape(2, 2)))
    return path.read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz")
    store = random_store(path / "store", UNIT, 6, (4, 4), shard_size=4)
    make_index(store, path / "index", Neighborhood("full"))
    return path


def results(path):
    rejudge_records(path, read_results(path))


def items(path):
    return [load() for _, load in open_source(str(path), None, None)]


TABLE = f"{bad_texts.HEAD}\n{bad_texts.ROW}\n".encode()
ANSWER = {"prompt": "a dog", "sample": 0, "caption": "a red dog"}
CHOICE = {"format": 1, "seed": 0, "largest": 9, "whole_names": False, "images": 1, "of": 2}
MJHQ = json.dumps({"0a": {"category": "animals", "prompt": "a dog"}}).encode()
READERS = {
    "prompts.jsonl": (load_geneval_prompts, lambda: bad_texts.lines(bad_texts.PROMPT)),
    "captions.jsonl": (load_captions, lambda: bad_texts.lines(bad_texts.PROMPT)),
    "captions.json": (load_captions, lambda: MJHQ),
    "meta_data.json": (load_mjhq, lambda: MJHQ),
    "results.jsonl": (results, lambda: bad_texts.lines(bad_texts.RESULT)),
    "answers.jsonl": (lambda path: RecordedAnswers(path, "x"), lambda: bad_texts.lines(ANSWER)),
    "questions.csv": (lambda path: problems(read_questions(path)), lambda: TABLE),
    "prompts.csv": (load_question_prompts, lambda: TABLE),
    "any.json": (read_json, lambda: MJHQ),
    "choice.json": (SubsampleSpec.read, lambda: json.dumps(CHOICE).encode()),
    "x.npz": (read_reference, lambda: bad_files.zipped({"feats.npy": bad_files.npy(np.eye(3))})),
    "moments.npz": (
        lambda path: read_reference(path).close(),
        lambda: bad_files.zipped(
            {"mu.npy": bad_files.npy(np.zeros(3)), "sigma.npy": bad_files.npy(np.eye(3))}
        ),
    ),
    "x.npy": (read_reference, lambda: bad_files.npy(np.eye(3))),
    "x.prints.npz": (
        lambda path: Decontaminator.load([path]),
        lambda: bad_files.zipped({"names.npy": bad_files.npy(np.array(["a"]))}),
    ),
    "x.safetensors": (read_file, lambda: bad_files.safetensors()["other-names.safetensors"]),
    "x.bin": (read_file, lambda: bad_files.weights()["other-names.bin"]),
    "x.tar": (items, lambda: bad_files.tars()["twice.tar"][:3072] + bytes(1024)),
    "x.parquet": (items, lambda: bad_texts.parquets()["bad-images.parquet"]),
    "x.png": (lambda path: decode("x", path, 8), bad_files.saved),
    "x.jpg": (lambda path: decode("x", path, 8), lambda: bad_files.saved("JPEG")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_returns_or_refuses(name, tmp_path):
    read, good = READERS[name]
    path, whole = tmp_path / name, good()
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


def test_subsets(tmp_path):
    @FEW
    @given(data=mangled(TABLE), end=st.sampled_from(["csv", "json", "jsonl"]))
    def feed(data, end):
        (tmp_path / f"x.{end}").write_bytes(data)
        with suppress(ArragError):
            write_subset(tmp_path / f"x.{end}", tmp_path / "few", 1)

    feed()


def test_a_picture_s_codes(tmp_path):
    path = tmp_path / "x.png"
    whole = picture_with_codes(path)
    assert read_codes(path).tolist() == [[0, 1], [2, 3]]

    @FEW
    @given(text=mangled(b"[[0,1],[2,3]]"), data=mangled(whole))
    def feed(text, data):
        inside = bad_files.chunk(b"tEXt", b"arrag codes\0" + text.replace(b"\0", b""))
        for one in (data, bad_files.png(extra=inside)):
            path.write_bytes(one)
            with suppress(ArragError):
                read_codes(path)

    feed()


def test_configurations(root, tmp_path):
    whole = (root / "config/micro-ci.yaml").read_bytes()

    @FEW
    @given(data=mangled(whole))
    def feed(data):
        (tmp_path / "x.yaml").write_bytes(data)
        with suppress(ArragError):
            load_config(tmp_path / "x.yaml")

    feed()


@pytest.mark.parametrize("name", ["store/manifest.json", "index/meta.json"])
def test_stores_and_indexes(store, name):
    whole = (store / name).read_bytes()
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
            (store / name).write_bytes(one)
            with suppress(ArragError):
                open_index(store / "index", TokenStore.open(store / "store"))

    try:
        feed()
    finally:
        (store / name).write_bytes(whole)


@FEW
@given(
    text=mangled(b"hub:owner/name@main#a.bin,*.pt:text/encoder").map(lambda b: b.decode("latin1"))
)
def test_references(text):
    try:
        reference, inside = hub.parse(text)
    except ValueError:
        return
    folder = reference.folder / inside
    assert folder.is_relative_to(hub.FOLDER) and ".." not in folder.parts
    assert hub.reference_of(reference.folder) == reference


@FEW
@given(text=mangled(b"a/{000..012}/{x,y}.tar").map(lambda b: b.decode("latin1") + ".tar"))
def test_patterns(text):
    with suppress(ArragError):
        assert files_of(text)


@pytest.mark.parametrize("text", ["{0..999999999}.tar", "{a,b}" * 40 + ".tar"])
def test_a_pattern_of_too_many_files_is_refused(text):
    with pytest.raises(ArragError):
        files_of(text)
