"""A store holds what was put in, survives a kill and says what is wrong with it."""

import json
import shutil

import numpy as np
import pytest
import torch

from arrag.data import store_format
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.utils.errors import ArragError

OPTIONS = {"tokenizer_digest": "abc", "grid": (3, 4), "source": {"split": "database", "of": (1, 2)}}
CODEBOOK = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)


def images(count, seed=0):
    grids = np.random.default_rng(seed).integers(0, 9, (count, 3, 4)).astype(np.uint16)
    return [f"image-{i}" for i in range(count)], grids


def write(path, count=25, shard_size=10, **options):
    keys, grids = images(count)
    merged = {**OPTIONS, "codebook": CODEBOOK, "shard_size": shard_size, **options}
    with StoreWriter(path, **merged) as writer:
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


def test_codebook_may_be_a_tensor_and_grids_any_whole_numbers(tmp_path):
    store = write(tmp_path / "a")
    keys, grids = images(25)
    options = {**OPTIONS, "codebook": torch.from_numpy(CODEBOOK), "shard_size": 25}
    with StoreWriter(tmp_path / "b", **options) as writer:
        writer.add(keys, torch.from_numpy(grids.astype(np.int64)))
    assert TokenStore.open(tmp_path / "b").digest == store.digest


def test_the_digest_names_the_content_and_not_its_shards(tmp_path):
    digest = write(tmp_path / "a").digest
    assert write(tmp_path / "b", shard_size=4).digest == digest
    assert write(tmp_path / "c", count=24).digest != digest
    assert write(tmp_path / "d", codebook=CODEBOOK * 2).digest != digest
    assert write(tmp_path / "e", tokenizer_digest="other").digest != digest


@pytest.mark.parametrize("written_before_the_kill", [0, 1, 2])
def test_a_killed_writer_goes_on_after_its_last_whole_shard(
    tmp_path, monkeypatch, written_before_the_kill
):
    whole = write(tmp_path / "whole")
    path, save, saved = tmp_path / "killed", np.save, []

    def dies(file, array):
        if len(saved) == written_before_the_kill:
            file.write_bytes(b"half a shard")
            shutil.copytree(file.parent, path / ".shard.left.tmp")  # what SIGKILL leaves
            shutil.copy(file, path / file.name)
            raise KeyboardInterrupt
        saved.append(file)
        save(file, array)

    monkeypatch.setattr(np, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    monkeypatch.setattr(np, "save", save)
    with pytest.raises(ArragError, match="not finished"):
        TokenStore.open(path)
    options = {**OPTIONS, "codebook": CODEBOOK, "shard_size": 10}
    assert StoreWriter(path, **options).done == 10 * written_before_the_kill
    store = write(path)
    assert store.digest == whole.digest
    assert {p.name for p in path.iterdir()} == {p.name for p in whole.path.iterdir()}
    TokenStore.open(path, verify=True)


def test_a_store_whose_manifest_was_deleted_is_not_written_again(tmp_path):
    """As Snakemake does to a job that ended while nobody looked."""
    whole = write(tmp_path / "store").digest
    before = {p.name: p.stat().st_ino for p in (tmp_path / "store").glob("shard-*")}
    (tmp_path / "store/manifest.json").unlink()
    assert write(tmp_path / "store").digest == whole
    assert {p.name: p.stat().st_ino for p in (tmp_path / "store").glob("shard-*")} == before


def test_a_finished_store_takes_nothing_more(tmp_path):
    write(tmp_path / "store")
    again = write(tmp_path / "store")  # nothing left to add: not an error
    assert len(again) == 25
    writer = StoreWriter(tmp_path / "store", **OPTIONS, codebook=CODEBOOK, shard_size=10)
    assert writer.done == 25
    with pytest.raises(ArragError, match="finished with 25 images"):
        writer.add(*images(1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tokenizer_digest": "xyz"}, "tokenizer_digest 'abc'.*'xyz'"),
        ({"grid": (4, 3)}, r"grid \[3, 4\].*\[4, 3\]"),
        ({"source": {"split": "training"}}, "source .*database.*training"),
        ({"codebook": CODEBOOK + 1}, "codebook"),
    ],
)
def test_reopening_as_another_store_is_refused(tmp_path, change, field):
    write(tmp_path / "store")
    with pytest.raises(ArragError, match=field):
        write(tmp_path / "store", **change)


def test_wrong_images_are_refused(tmp_path):
    writer = StoreWriter(tmp_path / "store", **OPTIONS, codebook=CODEBOOK, shard_size=10)
    keys, grids = images(3)
    with pytest.raises(ArragError, match=r"expected .* \[3, 3, 4\] .* found uint16 \[3, 4, 3\]"):
        writer.add(keys, grids.transpose(0, 2, 1))
    with pytest.raises(ArragError, match=r"\[2, 3, 4\] for 2 keys"):
        writer.add(keys[:2], grids)
    with pytest.raises(ArragError, match="found float64"):
        writer.add(keys, grids.astype(float))
    for code in (9, -1):
        wrong = grids.astype(np.int64)
        wrong[1, 2, 3] = code
        with pytest.raises(ArragError, match=f"image 1, row 2, column 3 holds code {code}"):
            writer.add(keys, wrong)
    with pytest.raises(ArragError, match="no image was added"):
        writer.close()


@pytest.mark.parametrize("hashes", [2**64, 4])  # four: every name seems to be met already
@pytest.mark.parametrize("again", [1, 8, 12, 21])  # in a shard before, in this run, not yet written
def test_a_name_given_twice_is_refused(tmp_path, monkeypatch, hashes, again):
    true = store_format._hash
    monkeypatch.setattr(store_format, "_hash", lambda key: true(key) % hashes)
    keys, grids = images(23)
    options = {**OPTIONS, "codebook": CODEBOOK, "shard_size": 5}
    writer = StoreWriter(tmp_path / "store", **options)
    writer.add(keys[:10], grids[:10])
    del writer  # killed
    writer = StoreWriter(tmp_path / "store", **options)
    assert writer.done == 10
    writer.add(keys[10:20], grids[10:20])
    writer.add(keys[20:22], grids[20:22])
    with pytest.raises(ArragError, match=f"store: two images are named 'image-{again}'; give"):
        writer.add([keys[22], keys[again]], grids[:2])
    writer = StoreWriter(tmp_path / "other", **options)
    with pytest.raises(ArragError, match="two images are named 'x'"):
        writer.add(["w", "x", "y", "x"], grids[:4])


@pytest.mark.parametrize("codebook", [np.zeros(3), np.zeros((65536, 1)), np.full((2, 2), np.nan)])
def test_a_wrong_codebook_is_refused(tmp_path, codebook):
    with pytest.raises(ArragError, match="codebook"):
        StoreWriter(tmp_path / "store", **OPTIONS, codebook=codebook, shard_size=10)


def test_a_truncated_shard_is_named_with_both_sizes(tmp_path):
    store = write(tmp_path / "store")
    file = store.path / "shard-00001.npy"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArragError, match=f"shard-00001.npy: {size - 10} bytes.* {size}"):
        TokenStore.open(store.path)
    with pytest.raises(ArragError, match=f"shard-00001.npy: {size - 10} bytes.* {size}"):
        StoreWriter(store.path, **OPTIONS, codebook=CODEBOOK, shard_size=10)
    file.unlink()
    with pytest.raises(ArragError, match="shard-00001.npy: missing"):
        TokenStore.open(store.path)


@pytest.mark.parametrize("name", ["shard-00000.npy", "shard-00002.keys.json"])
def test_verify_finds_an_altered_byte(tmp_path, name):
    store = write(tmp_path / "store")
    data = bytearray((store.path / name).read_bytes())
    data[-3] ^= 1
    (store.path / name).write_bytes(bytes(data))
    TokenStore.open(store.path)
    with pytest.raises(ArragError, match=f"{name}: SHA-256 is"):
        TokenStore.open(store.path, verify=True)


def test_other_damage_is_named(tmp_path):
    with pytest.raises(ArragError, match=r"manifest.json: no such file"):
        TokenStore.open(tmp_path / "nowhere")
    store = write(tmp_path / "store")
    codebook, manifest = store.path / "codebook.safetensors", store.path / "manifest.json"
    whole = codebook.read_bytes()
    codebook.write_bytes(whole[:-4])
    with pytest.raises(ArragError, match=r"codebook.safetensors: cannot be read"):
        TokenStore.open(store.path)
    codebook.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ArragError, match=r"codebook.safetensors: SHA-256 of the vectors"):
        TokenStore.open(store.path)
    codebook.write_bytes(whole)
    fields = json.loads(manifest.read_text())
    for change, match in (({"format": 2}, "format is 2"), ({"grid": None}, "no field 'grid'")):
        damaged = {k: v for k, v in {**fields, **change}.items() if v is not None}
        manifest.write_text(json.dumps(damaged))
        with pytest.raises(ArragError, match=match):
            TokenStore.open(store.path)
