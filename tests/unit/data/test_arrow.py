"""Data sets of Hugging Face on disk, written by the library itself, read as any other source."""

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_sources import picture

from arrag.data.decontamination import TestImages
from arrag.data.encode import encode_source
from arrag.data.images import decode_all
from arrag.data.sources import open_source
from arrag.data.token_store import TokenStore
from arrag.utils.errors import ArragError
from arrag.utils.files import read_json

COUNT = 10
datasets.disable_progress_bars()


def pictures(broken=()):
    return [b"no image" if i in broken else picture(i) for i in range(COUNT)]


def dataset(broken=()):
    cells = [{"bytes": data, "path": None} for data in pictures(broken)]
    columns = {"text": ["a caption"] * COUNT, "jpg": cells, "thumb": [b"small"] * COUNT}
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "jpg": datasets.Image(),
            "thumb": datasets.Value("binary"),
        }
    )
    return datasets.Dataset.from_dict(columns, features=features)


def save_arrow(path, broken=()):
    dataset(broken).save_to_disk(path, num_shards=2)
    return path


def save_parquet(path, broken=()):
    path.mkdir()
    for part in range(2):
        shard = dataset(broken).shard(2, part, contiguous=True)
        shard.to_parquet(path / f"train-{part:05d}-of-00002.parquet", batch_size=2)
    return path


SAVERS = {
    "arrow": (save_arrow, "data-{:05d}-of-00002.arrow"),
    "parquet": (save_parquet, "train-{:05d}-of-00002.parquet"),
}


def folder_of(path, data):
    path.mkdir()
    for i, one in enumerate(data):
        (path / f"{i}.png").write_bytes(one)
    return path


@pytest.mark.parametrize("kind", SAVERS)
def test_a_data_set_holds_the_codes_of_its_images_in_order(tiny_janus, tmp_path, kind):
    save, name = SAVERS[kind]
    source = save(tmp_path / "set", broken=[3])
    result = encode_source(str(source), tiny_janus, tmp_path / "codes", shard_size=4)
    assert (result["images"], result["skipped"]) == (9, 1)
    store = TokenStore.open(tmp_path / "codes", verify=True)
    keys = [f"{name.format(i // 5)}/{i % 5}" for i in range(COUNT)]
    skipped = read_json(tmp_path / "codes" / "skipped.json")
    assert [entry["key"] for entry in skipped] == [keys.pop(3)]
    assert [store.keys(i) for i in range(9)] == keys
    encode_source(str(folder_of(tmp_path / "f", pictures([3]))), tiny_janus, tmp_path / "other")
    other = TokenStore.open(tmp_path / "other")
    assert np.array_equal(np.concatenate(store.shards), np.concatenate(other.shards))


@pytest.mark.parametrize("kind", SAVERS)
def test_passing_by_loads_nothing_and_gives_the_same(tmp_path, kind):
    source = str(SAVERS[kind][0](tmp_path / "set"))
    alone = [load() for i, (_, load) in enumerate(open_source(source, None, None)) if i in (4, 8)]
    assert alone == [pictures()[4], pictures()[8]]
    workers = list(decode_all(open_source(source, 3, None), 20, workers=1))
    here = list(decode_all(open_source(source, 3, None), 20))
    assert [w.key for w in workers] == [h.key for h in here] and len(here) == 3
    assert all(np.array_equal(w.pixels, h.pixels) for w, h in zip(workers, here, strict=True))


@pytest.mark.parametrize("kind", SAVERS)
@pytest.mark.parametrize("killed_after", [1, 3, 4])
def test_a_killed_encoding_of_a_data_set_goes_on(
    tiny_janus, tmp_path, monkeypatch, kind, killed_after
):
    from arrag.tokenizers.base import ImageTokenizer

    source, options = (
        str(SAVERS[kind][0](tmp_path / "set", [1])),
        {"batch_size": 2, "shard_size": 3},
    )
    encode_source(source, tiny_janus, tmp_path / "whole", **options)
    encode, calls = ImageTokenizer.encode, []

    def dies(self, images):
        calls.append(1)
        if len(calls) > killed_after:
            raise KeyboardInterrupt
        return encode(self, images)

    monkeypatch.setattr(ImageTokenizer, "encode", dies)
    with pytest.raises(KeyboardInterrupt):
        encode_source(source, tiny_janus, tmp_path / "codes", **options)
    monkeypatch.setattr(ImageTokenizer, "encode", encode)
    encode_source(source, tiny_janus, tmp_path / "codes", **options)
    store, whole = (TokenStore.open(tmp_path / name) for name in ("codes", "whole"))
    assert store.digest == whole.digest


def batch_starts(path):
    """Where the batches of an Arrow stream begin, and where it ends."""
    with pa.memory_map(str(path)) as file:
        reader, starts = pa.ipc.open_stream(file), []
        while True:
            starts.append(file.tell())
            try:
                reader.read_next_batch()
            except StopIteration:
                return starts


@pytest.mark.parametrize(
    ("cut", "batch", "why"),
    [
        (lambda starts: starts[0] + 1000, 0, "Expected"),  # within the images
        (lambda starts: starts[1] + 3, 1, ""),  # within the head of the second batch
        (lambda starts: starts[1], 1, "without the mark of its end"),  # between two
        (lambda starts: 100, None, ""),  # within the schema
        (lambda starts: 0, None, ""),
    ],
)
def test_a_cut_arrow_file_is_an_error_with_file_and_offset(tiny_janus, tmp_path, cut, batch, why):
    source = tmp_path / "set"
    data = dataset()
    data.save_to_disk(source)
    file = source / "data-00000-of-00001.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, data.data.schema) as writer:
        for part in data.data.table.to_batches():
            for start in (0, 5):
                writer.write_batch(part.slice(start, 5))
    whole, starts = file.read_bytes(), batch_starts(file)
    assert len(starts) == 3
    file.write_bytes(whole[: cut(starts)])
    at = 0 if batch is None else starts[batch]
    with pytest.raises(ArragError, match=rf"00001.arrow: broken at byte {at} \(.*{why}"):
        encode_source(str(source), tiny_janus, tmp_path / "codes", shard_size=2, batch_size=2)
    file.write_bytes(whole)
    encode_source(str(source), tiny_janus, tmp_path / "codes", shard_size=2, batch_size=2)
    assert len(TokenStore.open(tmp_path / "codes")) == COUNT


def test_a_damaged_parquet_file_is_an_error_with_file_and_offset(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"image": pa.array(pictures()), "n": list(range(COUNT))})
    pq.write_table(table, path, row_group_size=4, write_page_checksum=True, compression="NONE")
    whole, about = path.read_bytes(), pq.ParquetFile(path).metadata
    at = about.row_group(1).column(0)
    at = at.dictionary_page_offset or at.data_page_offset
    path.write_bytes(whole[: at + 300] + bytes([whole[at + 300] ^ 1]) + whole[at + 301 :])
    items, keys = open_source(str(path), None, None), []
    with pytest.raises(ArragError, match=rf"x.parquet: broken at byte {at} \("):
        for key, load in items:
            load()
            keys.append(key)
    assert keys == [f"x.parquet/{i}" for i in range(4)]
    path.write_bytes(whole[:-100])
    with pytest.raises(ArragError, match=rf"x.parquet: broken at byte {len(whole) - 108} \("):
        next(open_source(str(path), None, None))


def write(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_the_column_of_images_is_found_or_asked_for(tmp_path):
    data = pictures()
    names = [
        (load(), key) for key, load in open_source(write(tmp_path / "a.parquet", x=data), 1, None)
    ]
    assert names == [(data[0], "a.parquet/0")]
    both = write(tmp_path / "b.parquet", mask=[b"m"] * COUNT, image=data)
    assert [load() for _, load in open_source(both, 2, None)] == data[:2]
    for columns, found in (
        ({"x": data, "y": data}, "2 of its columns \\(x, y\\)"),
        ({"n": [1]}, "0 of"),
    ):
        with pytest.raises(ArragError, match=f"c.parquet: {found}.*call it `image`"):
            next(open_source(write(tmp_path / "c.parquet", **columns), None, None))


def test_a_row_may_name_a_file_or_nothing(tiny_janus, tmp_path):
    folder_of(tmp_path / "set", pictures()[:1])
    cells = [{"bytes": None, "path": "0.png"}, {"bytes": None, "path": None}, None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    write(tmp_path / "set" / "x.parquet", image=pa.array(cells, kind))
    result = encode_source(str(tmp_path / "set" / "x.parquet"), tiny_janus, tmp_path / "codes")
    assert (result["images"], result["skipped"]) == (1, 2)


def test_data_sets_that_cannot_be_used(tmp_path):
    both = datasets.DatasetDict({"train": dataset(), "test": dataset()})
    both.save_to_disk(tmp_path / "both")
    with pytest.raises(ArragError, match="splits train, test; name one, as in .*both/train"):
        open_source(str(tmp_path / "both"), None, None)
    assert len(list(open_source(str(tmp_path / "both" / "test"), None, None))) == COUNT
    (tmp_path / "both" / "train" / "data-00000-of-00001.arrow").unlink()
    with pytest.raises(ArragError, match="data-00000-of-00001.arrow: missing, but state.json"):
        open_source(str(tmp_path / "both" / "train"), None, None)
    (tmp_path / "both" / "train" / "state.json").unlink()
    with pytest.raises(ArragError, match="not written by `save_to_disk`"):
        open_source(str(tmp_path / "both" / "train"), None, None)
    folder = folder_of(tmp_path / "mixed", pictures()[:2])
    write(folder / "x.parquet", image=pictures())
    with pytest.raises(ArragError, match="holds 2 images and 1 Parquet files; name what is meant"):
        open_source(str(folder), None, None)


def test_test_images_may_lie_in_a_data_set(tmp_path):
    guard = TestImages.load([str(save_parquet(tmp_path / "set"))])
    assert guard.names[7] == "train-00001-of-00002.parquet/2"
