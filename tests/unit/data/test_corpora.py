"""Samples of corpora: the same whatever the order and the shards, of the size asked for."""

import io
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from arrag.cli.main import main
from arrag.data import subsample as corpora
from arrag.data.decontamination import Decontaminator
from arrag.data.encode import encode_source
from arrag.data.sources import open_source
from arrag.data.subsample import SubsampleSpec, join_stores, list_images, number, subsample_corpus
from arrag.data.token_store import TokenStore
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json
from arrag.utils.globs import files_of, is_tars, part_of, parts_for

NAMES = [f"{i:05d}.png" for i in range(60)]


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 48, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


def tars(folder, groups):
    """One tar for each group of names, its images in the order given; the pattern of all."""
    folder.mkdir()
    for i, names in enumerate(groups):
        with tarfile.open(folder / f"{i:02d}.tar", "w") as tar:
            for name in names:
                data = picture(int(name[:5]) if name[0].isdigit() else 0)
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return f"{folder}/{{00..{len(groups) - 1:02d}}}.tar"


def keys_of(source):
    return (key for key, _ in open_source(source, None, None))


def sample(source, out, images, seed=0, parts=1):
    """The names in a sample that jobs draw part by part, and the choice."""
    out.mkdir()
    sources = [part_of(source, i, parts) for i in range(parts)]
    lists = [out / f"{i}.npz" for i in range(parts)]
    for part, listed in zip(sources, lists, strict=True):
        list_images(part, listed, seed)
    choice = subsample_corpus(lists, out / "choice.json", images, seed)
    assert SubsampleSpec.read(out / "choice.json") == choice
    tar = is_tars(source)
    keys = [key for part in sources for key in keys_of(part) if choice.contains(key, tar)]
    return {corpora.name_of(key, tar) for key in keys}, choice


def obvious(names, images, seed):
    """The sample by its definition: the names with the smallest numbers."""
    return set(sorted(names, key=lambda name: number(name, seed))[:images])


def test_neither_order_nor_shards_nor_parts_change_a_sample(tmp_path):
    shuffled = [NAMES[i] for i in np.random.default_rng(1).permutation(60)]
    once = tars(tmp_path / "a", [NAMES])
    many = tars(tmp_path / "b", [shuffled[:7], shuffled[7:30], shuffled[30:50], shuffled[50:]])
    expected = obvious(NAMES, 23, 0)
    assert len(expected) == 23
    for i, (source, parts) in enumerate([(once, 1), (many, 1), (many, 3), (many, 4)]):
        found, choice = sample(source, tmp_path / f"out{i}", 23, parts=parts)
        assert found == expected
        assert (choice.images, choice.of) == (23, 60)
    other, _ = sample(once, tmp_path / "other", 23, seed=5)
    assert other == obvious(NAMES, 23, 5) != expected


def test_a_larger_sample_holds_the_smaller_one(tmp_path):
    source = tars(tmp_path / "a", [NAMES[:30], NAMES[30:]])
    small, _ = sample(source, tmp_path / "small", 10)
    large, _ = sample(source, tmp_path / "large", 40)
    assert small < large


def test_rows_of_parquet_are_sampled_by_their_place(tmp_path):
    for i in range(3):
        table = pa.table({"image": [picture(i * 10 + j) for j in range(10)]})
        pq.write_table(table, tmp_path / f"{i}.parquet")
    found, choice = sample(f"{tmp_path}/{{0..2}}.parquet", tmp_path / "out", 12, parts=3)
    rows = [f"{i}.parquet/{j}" for i in range(3) for j in range(10)]
    assert found == obvious(rows, 12, 0) and choice.of == 30


def test_names_that_repeat_from_tar_to_tar_are_told_apart_by_the_tar(tmp_path):
    source = tars(tmp_path / "a", [NAMES[:20], NAMES[:20]])
    out = tmp_path / "out"
    out.mkdir()
    list_images(source, out / "all.npz", 0)
    choice = subsample_corpus([out / "all.npz"], out / "choice.json", 15, 0)
    keys = [key for key in keys_of(source) if choice.contains(key, True)]
    whole = [f"{tar}.tar/{name}" for tar in ("00", "01") for name in NAMES[:20]]
    assert choice.whole_names and set(keys) == obvious(whole, 15, 0) and len(keys) == 15


def test_a_corpus_too_small_is_refused_before_anything_is_encoded(tmp_path, capsys):
    source = tars(tmp_path / "a", [NAMES])
    assert main(["corpus", "list", source, "--out", str(tmp_path / "l.npz")]) == 0
    choose_command = ["corpus", "choose", str(tmp_path / "l.npz"), "--images", "61"]
    assert main([*choose_command, "--out", str(tmp_path / "c.json")]) == 2
    assert "61 images are wanted, the corpus has 60" in capsys.readouterr().err
    assert not (tmp_path / "c.json").exists()
    with pytest.raises(ArragError, match="listed with seed 0, not 3"):
        subsample_corpus([tmp_path / "l.npz"], tmp_path / "c.json", 5, 3)


def test_parts_are_all_files_once_and_need_not_be_there():
    source = "nowhere/{00..22}.tar"
    for parts in (1, 2, 7, 23):
        files = [f for i in range(parts) for f in files_of(part_of(source, i, parts))]
        assert files == [f"nowhere/{i:02d}.tar" for i in range(23)]
    assert [parts_for(source, n, 10) for n in (1, 10, 11, 230, 9999, None)] == [1, 1, 2, 23, 23, 23]
    with pytest.raises(ArragError, match="23 files make no part 0 of 24"):
        part_of(source, 0, 24)
    with pytest.raises(ArragError, match="two of its files have one name"):
        part_of("{a,b}/0.tar", 0, 1)


def test_jobs_encode_their_parts_and_the_whole_holds_the_sample_without_test_images(
    tmp_path, tiny_janus
):
    source = tars(tmp_path / "a", [NAMES[:8], NAMES[8:16], NAMES[16:24]])
    names, choice = sample(source, tmp_path / "lists", 14, parts=3)
    test_image = sorted(names)[3]
    (tmp_path / "test").mkdir()
    (tmp_path / "test/copy.png").write_bytes(picture(int(test_image[:5])))
    prints = tmp_path / "test.prints.npz"
    Decontaminator.load([tmp_path / "test"]).save(prints)
    stores = []
    for i in range(3):
        stores.append(tmp_path / f"part{i}")
        encode_source(
            part_of(source, i, 3), tiny_janus, stores[-1], subsample=choice, exclude=[str(prints)]
        )
    (tmp_path / "all").mkdir()  # as Snakemake leaves it
    about = join_stores(stores, tmp_path / "all")
    store = TokenStore.open(tmp_path / "all", verify=True)
    keys = [store.keys(i) for i in range(len(store))]
    assert about == {"images": 13, "skipped": 0, "excluded": 1}
    assert {key.partition("/")[2] for key in keys} == names - {test_image}
    excluded = read_json(tmp_path / "all/excluded.json")
    assert [(e["key"].partition("/")[2], e["reason"]) for e in excluded] == [
        (test_image, "same pixels")
    ]
    (tmp_path / "all/manifest.json").unlink()  # as it leaves that of a killed job
    assert join_stores(stores, tmp_path / "all") == about
    assert TokenStore.open(tmp_path / "all").digest == store.digest
    with pytest.raises(ArragError, match="is also the name of an image of"):
        join_stores([stores[0], stores[0]], tmp_path / "twice")


def test_saved_fingerprints_find_what_the_images_find(tmp_path):
    (tmp_path / "test").mkdir()
    for i in range(3):
        (tmp_path / f"test/{i}.png").write_bytes(picture(i))
    read = Decontaminator.load([tmp_path / "test"])
    read.save(tmp_path / "t.prints.npz")
    again = Decontaminator.load([tmp_path / "t.prints.npz"])
    assert again.digest == read.digest and again.names == read.names
    from arrag.data.fingerprint import fingerprint

    mirrored = Image.open(tmp_path / "test/1.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert again.match(fingerprint(mirrored)) == read.match(fingerprint(mirrored)) is not None
    with pytest.raises(ArragError, match="make the fingerprints again"):
        (tmp_path / "x.prints.npz").write_bytes(b"PK")
        Decontaminator.load([tmp_path / "x.prints.npz"])
