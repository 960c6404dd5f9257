"""Every kind of source gives its images in order, and says where it is damaged."""

import tarfile

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from image_sources import picture, write_folder, write_tar
from refusals import refused

from arrag.data.images import decode_all, open_rgb, square
from arrag.data.sources import IMAGE_SOURCES, open_source
from arrag.utils.errors import FormatError, MissingError, UsageError

COUNT = 10
PICTURES = [picture(i) for i in range(COUNT)]
datasets.disable_progress_bars()


def keys_of(source, **options):
    return [
        key for key, _ in open_source(str(source), **{"limit": None, "assets": None, **options})
    ]


def dataset():
    features = {
        "text": datasets.Value("string"),
        "jpg": datasets.Image(),
        "thumb": datasets.Value("binary"),
    }
    cells = [{"bytes": data, "path": None} for data in PICTURES]
    columns = {"text": ["a caption"] * COUNT, "jpg": cells, "thumb": [b"small"] * COUNT}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def make_folder(path):
    write_folder(path, {f"{i}.png": data for i, data in enumerate(PICTURES[:5])})
    write_folder(path, {f"sub/{i}.PNG": data for i, data in enumerate(PICTURES[5:])})
    write_folder(path, {".hidden.png": b"", "notes.txt": b""})
    return path, [f"{i}.png" for i in range(5)] + [f"sub/{i}.PNG" for i in range(5)]


def make_tars(path):
    for part in range(2):
        files = {f"{i}.{end}": b"a caption" for i in range(5) for end in ("txt", "json")}
        files |= {f"{i}.png": PICTURES[5 * part + i] for i in range(5)} | {"._a.png": b"of a Mac"}
        write_tar(path / f"data-{part}.tar.gz", files, "w:gz")
    return path / "data-{0..1}.tar.gz", [f"data-{i // 5}.tar.gz/{i % 5}.png" for i in range(COUNT)]


def make_arrow(path):
    dataset().save_to_disk(path, num_shards=2)
    return path, [f"data-{i // 5:05d}-of-00002.arrow/{i % 5}" for i in range(COUNT)]


def make_parquet(path):
    path.mkdir()
    for part in range(2):
        shard = dataset().shard(2, part, contiguous=True)
        shard.to_parquet(path / f"train-{part}.parquet", batch_size=2)
    return path, [f"train-{i // 5}.parquet/{i % 5}" for i in range(COUNT)]


@pytest.mark.parametrize("make", [make_folder, make_tars, make_arrow, make_parquet])
def test_a_source_gives_its_images_in_order(tmp_path, make):
    source, keys = make(tmp_path / "source")
    items = open_source(str(source), None, None)
    images = [(key, image.pixels) for key, image in zip(keys, decode_all(items, 20), strict=True)]
    for (key, pixels), expected in zip(images, PICTURES, strict=True):
        assert np.array_equal(pixels, square(open_rgb(expected), 20)), key
    assert keys_of(source) == keys and keys_of(source, limit=3) == keys[:3]
    for i, (_, load) in enumerate(open_source(str(source), None, None)):
        if i in (4, 8):  # the others are not loaded
            assert np.array_equal(open_rgb(load()), open_rgb(PICTURES[i]))


def test_workers_change_nothing(tmp_path):
    files = {f"{i:03d}.png": picture(i) if i % 9 else b"no image" for i in range(40)}
    source = str(write_folder(tmp_path, files))  # more than a worker is given at once
    here, workers = (list(decode_all(open_source(source, 39, None), 20, workers=n)) for n in (0, 1))
    assert [(d.key, d.problem) for d in here] == [(d.key, d.problem) for d in workers]
    assert len(here) == 39 and sum(d.pixels is None for d in here) == 5
    assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(here, workers, strict=True))


def test_squaring_scales_the_short_side_and_crops_the_middle(tmp_path):
    from PIL import Image

    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    Image.fromarray(image).save(tmp_path / "wide.png")
    middle = square(open_rgb(tmp_path / "wide.png"), 20)
    assert middle.shape == (20, 20, 3) and (middle == 255).all()


def test_a_kind_of_source_can_be_added(tmp_path):
    @IMAGE_SOURCES.register("test-kind")
    def open_test_kind(location, *, limit, assets):
        return ((f"{location}/{i}", lambda: PICTURES[0]) for i in range(100))

    assert keys_of("test-kind:a:b", limit=2) == ["a:b/0", "a:b/1"]
    assert {"folder", "tar", "parquet", "huggingface", "micro"} < set(IMAGE_SOURCES)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("no/such/folder", MissingError),
        ("no/such-{1..2}.tar", MissingError),
        ("micro:nowhere", UsageError),
        ("micro:database", UsageError),  # has no end
    ],
)
def test_sources_that_cannot_be_used(source, kind):
    with refused(kind):
        keys_of(source)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, at: data[: at + 700],  # within an image
        lambda data, at: data[: at + 100],  # within a header
        lambda data, at: data[:at],  # between two files
        lambda data, at: data[:at] + b"\1" + data[at + 1 :],  # a wrong checksum
        lambda data, at: b"no tar at all" * 100,
        lambda data, at: b"",
    ],
)
def test_a_broken_tar_is_an_error_with_file_and_offset(tmp_path, damage):
    path = write_tar(tmp_path / "x.tar", {f"{i}.png": data for i, data in enumerate(PICTURES)})
    with tarfile.open(path) as tar:
        at = tar.getmember("3.png").offset
    data = damage(path.read_bytes(), at)
    path.write_bytes(data)
    at = at if len(data) > at - 1 and data[:1] == b"0" else 0
    with refused(FormatError, path=path, field=f"byte {at}"):
        for _, load in open_source(str(path), None, None):
            load()


def test_a_cut_arrow_file_is_an_error_with_file_and_offset(tmp_path):
    data = dataset()
    data.save_to_disk(tmp_path)
    file = tmp_path / "data-00000-of-00001.arrow"
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, data.data.schema) as writer:
        for start in (0, 5):
            writer.write_batch(data.data.table.to_batches()[0].slice(start, 5))
    starts = []  # of the batches
    with pa.memory_map(str(file)) as stream:
        reader = pa.ipc.open_stream(stream)
        for _ in range(2):
            starts.append(stream.tell())
            reader.read_next_batch()
    whole = file.read_bytes()
    cuts = (starts[0] + 1000, starts[1] + 3, starts[1], 100, 0)
    for cut, at in zip(cuts, (starts[0], starts[1], starts[1], 0, 0), strict=True):
        file.write_bytes(whole[:cut])
        with refused(FormatError, path=file, field=f"byte {at}"):
            keys_of(tmp_path)


def test_a_damaged_parquet_file_is_an_error_with_file_and_place(tmp_path):
    path = tmp_path / "x.parquet"
    table = pa.table({"image": pa.array(PICTURES), "n": list(range(COUNT))})
    pq.write_table(table, path, row_group_size=4, write_page_checksum=True, compression="NONE")
    whole, column = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(1).column(0)
    at = (column.dictionary_page_offset or column.data_page_offset) + 300
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    keys = []
    with refused(FormatError, path=path, field="row group 1"):
        for key, load in open_source(str(path), None, None):
            load()
            keys.append(key)
    assert keys == [f"x.parquet/{i}" for i in range(4)]
    path.write_bytes(whole[:-100])
    with refused(FormatError, path=path, field="footer"):
        keys_of(path)


def write_table(path, **columns):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return str(path)


def test_the_column_of_images_is_found_or_asked_for(tmp_path):
    one = write_table(tmp_path / "a.parquet", x=PICTURES)
    both = write_table(tmp_path / "b.parquet", mask=[b"m"] * COUNT, image=PICTURES)
    for source in (one, both):
        assert [load() for _, load in open_source(source, 2, None)] == PICTURES[:2]
    for columns in ({"x": PICTURES, "y": PICTURES}, {"n": [1]}):
        with refused(FormatError):
            keys_of(write_table(tmp_path / "c.parquet", **columns))


def test_a_row_may_name_a_file_of_its_folder_or_nothing(tmp_path):
    write_folder(tmp_path, {"set/0.png": PICTURES[0], "up.png": PICTURES[1]})
    ways = ["0.png", "../up.png", str(tmp_path / "up.png"), None]
    cells = [{"bytes": None, "path": way} for way in ways] + [None]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    source = write_table(tmp_path / "set" / "x.parquet", image=pa.array(cells, kind))
    decoded = list(decode_all(open_source(source, None, None), 20))
    assert [image.pixels is None for image in decoded] == [False, True, True, True, True]


def test_data_sets_that_cannot_be_used(tmp_path):
    both, train = tmp_path / "both", tmp_path / "both" / "train"
    datasets.DatasetDict({"train": dataset(), "test": dataset()}).save_to_disk(both)
    file, state = train / "data-00000-of-00001.arrow", train / "state.json"
    write_folder(tmp_path / "mixed", {"0.png": PICTURES[0]})
    write_table(tmp_path / "mixed" / "x.parquet", image=PICTURES)
    outside = '{"_data_files": [{"filename": "../x"}]}'
    for spoil, source, kind, path in (
        (None, both, UsageError, both),  # one split must be named
        (file.unlink, train, MissingError, file),
        (lambda: state.write_text(outside), train, FormatError, state),
        (state.unlink, train, UsageError, train),
        (None, tmp_path / "mixed", UsageError, tmp_path / "mixed"),
    ):
        if spoil:
            spoil()
        with refused(kind, path=path):
            keys_of(source)
    assert len(keys_of(both / "test")) == COUNT
