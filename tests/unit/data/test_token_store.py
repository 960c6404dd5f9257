"""A store holds what was put in, survives a kill and says what is wrong with it."""

import json

import numpy as np
import pytest
import torch
from refusals import refused

from arrag.data import store_format
from arrag.data.store_format import DuplicateFilter
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.utils.errors import FormatError, MismatchError, MissingError, OutputError

CODEBOOK = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
SOURCE = {"split": "database", "of": (1, 2)}
OPTIONS = {"tokenizer_digest": "abc", "grid": (3, 4), "source": SOURCE, "codebook": CODEBOOK}


def images(count, seed=0):
    grids = np.random.default_rng(seed).integers(0, 9, (count, 3, 4)).astype(np.uint16)
    return [f"image-{i}" for i in range(count)], grids


def opened(path, shard_size=10, **options):
    return StoreWriter(path, **{**OPTIONS, "shard_size": shard_size, **options})


def write(path, count=25, **options):
    keys, grids = images(count)
    with opened(path, **options) as writer:
        for start in range(writer.done, count, 7):
            writer.add(keys[start : start + 7], grids[start : start + 7])
    return TokenStore.open(path)


def test_a_store_gives_back_what_was_put_in(tmp_path):
    store, (keys, grids) = write(tmp_path / "store"), images(25)
    assert len(store) == 25  # the last, shorter shard is not dropped
    assert [len(shard) for shard in store.shards] == [10, 10, 5]
    assert np.array_equal(np.concatenate(store.shards), grids)
    assert [store.keys(i) for i in range(25)] == keys
    assert np.array_equal(store.grids(np.array([24, 3, 10, 3])), grids[[24, 3, 10, 3]])
    assert np.array_equal(store.codebook, CODEBOOK)
    assert (store.grid, store.tokenizer_digest) == ((3, 4), "abc")
    assert store.manifest["source"] == {"split": "database", "of": [1, 2]}
    assert all(isinstance(s, np.memmap) and not s.flags.writeable for s in store.shards)
    TokenStore.open(tmp_path / "store", verify=True)
    with pytest.raises(IndexError):
        store.keys(25)


def test_the_digest_names_the_content_and_not_its_shards(tmp_path):
    digest = write(tmp_path / "a").digest
    # Stores that were written before are found again by it.
    assert digest == "fd96210a238db029152978670c51cac4d7ea1b5ed7419ee4fb5adf08b9602f87"
    assert write(tmp_path / "b", shard_size=4).digest == digest
    assert write(tmp_path / "c", count=24).digest != digest
    assert write(tmp_path / "d", codebook=CODEBOOK * 2).digest != digest
    assert write(tmp_path / "e", tokenizer_digest="other").digest != digest
    keys, grids = images(25)
    with opened(tmp_path / "f", codebook=torch.from_numpy(CODEBOOK)) as writer:
        writer.add(keys, torch.from_numpy(grids.astype(np.int64)))
    assert TokenStore.open(tmp_path / "f").digest == digest


@pytest.mark.parametrize("written_before_the_kill", [0, 2])
def test_a_killed_writer_continues_after_its_last_whole_shard(
    tmp_path, monkeypatch, written_before_the_kill
):
    whole = write(tmp_path / "whole")
    path, save, saved = tmp_path / "killed", np.save, []

    def dies(file, array):
        if len(saved) == written_before_the_kill:
            file.write_bytes(b"half a shard")
            (path / ".shard-00009.npy.x.tmp").mkdir()  # what SIGKILL leaves
            raise KeyboardInterrupt
        saved.append(file)
        save(file, array)

    monkeypatch.setattr(np, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    monkeypatch.setattr(np, "save", save)
    with refused(MissingError, path=path):
        TokenStore.open(path)
    assert opened(path).done == 10 * written_before_the_kill
    store = write(path)
    assert store.digest == whole.digest and store.manifest == whole.manifest
    assert {p.name for p in path.iterdir()} == {p.name for p in whole.path.iterdir()}
    TokenStore.open(path, verify=True)


def test_a_store_whose_manifest_was_deleted_is_not_written_again(tmp_path):
    """As Snakemake does to a job whose end it missed."""
    whole = write(tmp_path / "store").digest
    before = {p.name: p.stat().st_ino for p in (tmp_path / "store").glob("shard-*")}
    (tmp_path / "store/manifest.json").unlink()
    assert write(tmp_path / "store").digest == whole
    assert {p.name: p.stat().st_ino for p in (tmp_path / "store").glob("shard-*")} == before


def test_a_finished_store_takes_nothing_more(tmp_path):
    write(tmp_path / "store")
    assert len(write(tmp_path / "store")) == 25  # nothing left to add: not an error
    writer = opened(tmp_path / "store")
    assert writer.done == 25
    with refused(OutputError):
        writer.add(*images(1))


@pytest.mark.parametrize("finished", [True, False])
def test_reopening_as_another_store_is_refused(tmp_path, finished):
    write(tmp_path / "store")
    if not finished:
        (tmp_path / "store/manifest.json").unlink()
    change = {"tokenizer_digest": "xyz", "grid": (4, 3), "source": {}, "codebook": CODEBOOK + 1}
    for field, value in change.items():
        with refused(MismatchError, field=field):
            write(tmp_path / "store", **{field: value})


def test_wrong_images_are_refused(tmp_path):
    writer = opened(tmp_path / "store")
    keys, grids = images(3)
    wrong = grids.astype(np.int64)
    for code in (9, -1):
        wrong[1, 2, 3] = code
        with refused(MismatchError) as caught:
            writer.add(keys, wrong)
        assert f"image 1, row 2, column 3 holds code {code}" in caught.value.message
    turned = grids.transpose(0, 2, 1)
    for names, bad in ((keys, turned), (keys[:2], grids), (keys, grids.astype(float))):
        with refused(MismatchError, path=tmp_path / "store"):
            writer.add(names, bad)
    with refused(MissingError):
        writer.close()
    for codebook in (np.zeros(3), np.zeros((65536, 1)), np.full((2, 2), np.nan)):
        with refused(FormatError, field="codebook"):
            opened(tmp_path / "other", codebook=codebook)


@pytest.mark.parametrize("hashes", [2**64, 4])  # four: every name seems to be met already
def test_a_name_given_twice_is_refused(tmp_path, monkeypatch, hashes):
    true = store_format._hash
    monkeypatch.setattr(store_format, "_hash", lambda key: true(key) % hashes)
    keys, grids = images(26)
    opened(tmp_path / "store", 5).add(keys[:10], grids[:10])  # and killed
    writer = opened(tmp_path / "store", 5)
    assert writer.done == 10
    writer.add(keys[10:20], grids[10:20])
    writer.add(keys[20:22], grids[20:22])
    for fresh, again in enumerate((1, 8, 12, 21), 22):  # in a shard, in this run, not yet written
        with refused(MismatchError) as caught:
            writer.add([keys[fresh], keys[again]], grids[:2])
        assert repr(keys[again]) in caught.value.message
    with refused(MismatchError):
        opened(tmp_path / "other").add(["w", "x", "y", "x"], grids[:4])


def test_a_duplicate_filter_misses_no_name():
    rng = np.random.default_rng(0)
    seen, found = set(), DuplicateFilter()
    for _ in range(40):
        names = [str(i) for i in rng.choice(2000, rng.integers(0, 60), replace=False)]
        assert set(found.add(names)) == seen.intersection(names)
        seen.update(names)


def test_damage_is_named(tmp_path):
    with refused(MissingError):
        TokenStore.open(tmp_path / "nowhere")
    store = write(tmp_path / "store")

    def check(name, change, field=None):
        path = store.path / name
        whole = path.read_bytes()
        path.write_bytes(change(whole))
        with refused(path=path, field=field):
            TokenStore.open(store.path, verify=True)
        path.write_bytes(whole)

    for name in ("shard-00001.npy", "shard-00002.keys.json", "codebook.safetensors"):
        check(name, lambda data: data[:-4])
        check(name, lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    for field, value in (("format", 2), ("grid", None), ("images", "many")):
        check(
            "manifest.json",
            lambda data, new={field: value}: json.dumps({**json.loads(data), **new}).encode(),
            field,
        )
    check("manifest.json", lambda data: data.replace(b'"images": 25', b'"images": 24'))
    (store.path / "shard-00001.npy").write_bytes(b"short")
    for reopen in (opened, TokenStore.open):  # without reading all of it
        with refused(path=store.path / "shard-00001.npy"):
            reopen(store.path)
    (store.path / "shard-00001.npy").unlink()
    with refused(MissingError, path=store.path / "shard-00001.npy"):
        TokenStore.open(store.path)
