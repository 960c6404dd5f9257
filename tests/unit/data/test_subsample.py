"""Subsamples of corpora: the same whatever the order and the shards, of the size asked for."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from image_sources import picture, write_folder, write_tars
from refusals import refused

from arrag.cli.main import main
from arrag.data.decontamination import Decontaminator
from arrag.data.encode import encode_source
from arrag.data.merge import join_stores
from arrag.data.sources import open_source
from arrag.data.subsample import SubsampleSpec, list_images, name_of, number, subsample_corpus
from arrag.data.token_store import TokenStore
from arrag.utils.errors import FormatError, MismatchError
from arrag.utils.files import read_json
from arrag.utils.globs import is_tars, source_part

NAMES = [f"{i:05d}.png" for i in range(60)]


def keys_of(source):
    return [key for key, _ in open_source(source, None, None)]


def subsample(source, out, images, seed=0, parts=1):
    """The names in a subsample that jobs draw part by part, and its spec."""
    out.mkdir()
    sources = [source_part(source, i, parts) for i in range(parts)]
    lists = [out / f"{i}.npz" for i in range(parts)]
    for part, listed in zip(sources, lists, strict=True):
        list_images(part, listed, seed)
    spec = subsample_corpus(lists, out / "spec.json", images, seed)
    assert SubsampleSpec.read(out / "spec.json") == spec
    tar = is_tars(source)
    keys = [key for part in sources for key in keys_of(part) if spec.contains(key, tar)]
    return {name_of(key, tar and not spec.whole_names) for key in keys}, spec


def obvious(names, images, seed):
    """The subsample by its definition: the names with the smallest numbers."""
    return set(sorted(names, key=lambda name: number(name, seed))[:images])


def test_neither_order_nor_shards_nor_parts_change_a_subsample(tmp_path):
    shuffled = [NAMES[i] for i in np.random.default_rng(1).permutation(60)]
    once = write_tars(tmp_path / "a", [NAMES])
    many = write_tars(
        tmp_path / "b", [shuffled[:7], shuffled[7:30], shuffled[30:50], shuffled[50:]]
    )
    expected = obvious(NAMES, 23, 0)
    assert len(expected) == 23
    for i, (source, parts) in enumerate([(once, 1), (many, 1), (many, 3)]):
        found, spec = subsample(source, tmp_path / f"out{i}", 23, parts=parts)
        assert found == expected and (spec.images, spec.of) == (23, 60)
    other, _ = subsample(once, tmp_path / "other", 23, seed=5)
    assert other == obvious(NAMES, 23, 5) != expected
    larger, _ = subsample(once, tmp_path / "larger", 40)
    assert expected < larger


def test_names_that_do_not_tell_images_apart_are_completed_by_the_file(tmp_path):
    source = write_tars(tmp_path / "a", [NAMES[:20], NAMES[:20]])
    found, spec = subsample(source, tmp_path / "tars", 15)
    whole = [f"{tar}.tar/{name}" for tar in ("00", "01") for name in NAMES[:20]]
    assert spec.whole_names and found == obvious(whole, 15, 0) and len(found) == 15
    for i in range(3):
        table = pa.table({"image": [picture(i * 10 + j) for j in range(10)]})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    found, spec = subsample(f"{tmp_path}/{{0..2}}.parquet", tmp_path / "rows", 12, parts=3)
    rows = [f"{i}.parquet/{j}" for i in range(3) for j in range(10)]
    assert found == obvious(rows, 12, 0) and spec.of == 30


def test_what_cannot_be_chosen_from_is_refused(tmp_path):
    source, listed = write_tars(tmp_path / "a", [NAMES]), tmp_path / "l.npz"
    bad, out = tmp_path / "x.npz", tmp_path / "c.json"
    assert main(["db", "scan", source, "--out", str(listed)]) == 0
    assert main(["db", "subsample", str(listed), "--images", "61", "--out", str(out)]) == 2
    assert not out.exists()
    np.savez(bad, seed=np.array([0.5]), inside=np.zeros(3), whole=np.zeros(3))
    for path, images, seed, kind in (
        (listed, 61, 0, MismatchError),
        (listed, 5, 3, MismatchError),
        (bad, 1, 0, FormatError),
    ):
        with refused(kind):
            subsample_corpus([path], out, images, seed)


def test_jobs_encode_their_parts_and_the_whole_is_the_subsample_without_test_images(
    tmp_path, tiny_janus
):
    source = write_tars(tmp_path / "a", [NAMES[:8], NAMES[8:16], NAMES[16:24]])
    names, spec = subsample(source, tmp_path / "lists", 14, parts=3)
    test_image = sorted(names)[3]
    write_folder(tmp_path / "test", {"copy.png": picture(int(test_image[:5]))})
    prints = tmp_path / "test.prints.npz"
    Decontaminator.load([tmp_path / "test"]).save(prints)
    stores = [tmp_path / f"part{i}" for i in range(3)]
    for i, out in enumerate(stores):
        part = source_part(source, i, 3)
        encode_source(part, tiny_janus, out, subsample=spec, exclude=[str(prints)])
    (tmp_path / "all").mkdir()  # as Snakemake leaves it
    about = join_stores(stores, tmp_path / "all")
    store = TokenStore.open(tmp_path / "all", verify=True)
    keys = [store.keys(i) for i in range(len(store))]
    assert about == {"images": 13, "skipped": 0, "excluded": 1}
    assert {key.partition("/")[2] for key in keys} == names - {test_image}
    (excluded,) = read_json(tmp_path / "all/excluded.json")
    assert excluded["key"].partition("/")[2] == test_image
    assert excluded["reason"] == "same pixels"
    (tmp_path / "all/manifest.json").unlink()  # as it leaves that of a killed job
    assert join_stores(stores, tmp_path / "all") == about
    assert TokenStore.open(tmp_path / "all").digest == store.digest
    with refused(MismatchError, path=stores[0]):
        join_stores([stores[0], stores[0]], tmp_path / "twice")
