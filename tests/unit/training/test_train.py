"""Training adapters: pairs, their retrieval, exact resume after a kill, bad input."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file

from arrag.backbones.janus import JanusBackbone
from arrag.config.generators import Janus
from arrag.config.training import FaidTraining, LoraSettings, Training
from arrag.data.encode import encode_source
from arrag.data.token_store import StoreWriter, TokenStore
from arrag.methods.adapter_folder import merge_delta, read_adapter, save_delta
from arrag.retrieval.index import build_index, open_index
from arrag.retrieval.neighborhood import Neighborhood
from arrag.training.adapt import compare, train
from arrag.training.neighbours import Neighbours, nearest_others, own_images, precompute
from arrag.training.pairs import Pairs, find_captions, make_pairs
from arrag.training.trainer import Data, Trainer
from arrag.utils.errors import ArragError, MismatchError
from arrag.utils.hashing import tree_digest
from arrag.utils.shards import JobPart

IMAGES, COUNT, HELD_OUT, K = 30, 16, 3, 5
SMALL = Training(
    source="micro", pairs=COUNT, held_out=HELD_OUT, epochs=1.25, global_batch=4, learning_rate=1e-3,
    warmup=0.5, drop_prompt=0.3, mixed_precision="no",
    lora=LoraSettings(r=2, alpha=4.0, dropout=0.1), faid=FaidTraining(k=3, hops=[1], init_gain=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, micro_janus, assets):
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    make_pairs(
        "micro:database", micro_janus, out, count=COUNT, held_out=HELD_OUT, first_held_out=IMAGES,
        assets=assets,
    )  # fmt: skip
    return Pairs.open(out)


@pytest.fixture(scope="module")
def index(tmp_path_factory, micro_janus, assets):
    folder = tmp_path_factory.mktemp("database")
    encode_source("micro:database", micro_janus, folder / "codes", limit=IMAGES, assets=assets)
    store = TokenStore.open(folder / "codes")
    build_index(store, folder / "index", neighborhood=Neighborhood("causal"), mode="exact")
    return open_index(folder / "index", store)


@pytest.fixture(scope="module")
def retrieved(tmp_path_factory, pairs, index):
    out = tmp_path_factory.mktemp("neighbours") / "out"
    precompute(pairs, index, out, K)
    return out


def janus(checkpoint):
    return Janus(kind="janus", checkpoint=checkpoint, guidance_scale=1.0)


def faid_data(pairs, index, retrieved):
    return Data(pairs, Neighbours(retrieved, pairs, SMALL.faid.k, index.digest))


# --- pairs


def picture(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Six images: four with a caption of some kind, one with an empty one, one with none."""
    path = tmp_path / "images"
    (path / "sub").mkdir(parents=True)
    for i, name in enumerate(("a", "b", "sub/c", "sub/d", "e", "f")):
        (path / f"{name}.png").write_bytes(picture(i))
    (path / "a.txt").write_text("a photo of a dog\n")
    (path / "b.json").write_text('{"caption": "a photo of a cat"}')
    (path / "sub/c.json").write_text('{"prompt": "a photo of a cup"}')
    (path / "sub/d.txt").write_text("a photo of two cups")
    (path / "e.txt").write_text(" \n")
    return path


def test_captions_stand_beside_their_images(folder, tmp_path):
    wanted = {
        "a.png": "a photo of a dog",
        "b.png": "a photo of a cat",
        "sub/c.png": "a photo of a cup",
        "sub/d.png": "a photo of two cups",
    }
    assert find_captions(str(folder)) == wanted
    with tarfile.open(tmp_path / "data.tar", "w") as tar:
        for path in sorted(folder.rglob("*.*")):
            tar.add(path, str(path.relative_to(folder)))
    in_tar = {f"data.tar/{name}": text for name, text in wanted.items()}
    assert find_captions(str(tmp_path / "data.tar")) == in_tar


def test_a_seed_samples_captioned_images(folder, micro_janus, tmp_path):
    made = [
        make_pairs(str(folder), micro_janus, tmp_path / str(i), count=2, held_out=1, seed=i)
        for i in (0, 1, 2)
    ]
    assert made[0]["train"] == 2 and made[0]["held_out"] == 1
    pairs = [Pairs.open(tmp_path / str(i)) for i in (0, 1, 2)]
    for some in pairs:
        keys = [some.store.keys(i) for i in range(3)]
        assert some.captions == [find_captions(str(folder))[key] for key in keys]
        assert not set(some.train) & set(some.held_out)
    assert len({p.digest for p in pairs}) == 3


def test_training_without_captions_is_refused(folder, micro_janus, index, tmp_path):
    for path in [*folder.rglob("*.txt"), *folder.rglob("*.json")]:
        path.unlink()
    with pytest.raises(ArragError, match="no image there has a caption; put a .txt"):
        make_pairs(str(folder), micro_janus, tmp_path / "out", count=1, held_out=1)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ArragError, match="a token store without captions.*arrag train pairs"):
        Pairs.open(index.store.path)


def test_too_few_captions_are_counted(folder, micro_janus, tmp_path):
    with pytest.raises(ArragError, match="4 images there have a caption, but 9.*2 to hold out"):
        make_pairs(str(folder), micro_janus, tmp_path / "out", count=9, held_out=2)


def test_held_out_scenes_are_neither_trained_on_nor_in_the_database(pairs, index):
    names = [pairs.store.keys(int(i)) for i in pairs.held_out]
    assert names and all(int(name.split("/")[1]) >= IMAGES for name in names)
    trained = {g.tobytes() for g in pairs.store.grids(pairs.train)}
    assert not trained & {g.tobytes() for g in pairs.store.grids(pairs.held_out)}


# --- retrieval


def without(store, images, path):
    """A copy of a store that lacks some images."""
    kept = np.setdiff1d(np.arange(len(store)), images)
    with StoreWriter(
        path, tokenizer_digest=store.tokenizer_digest, grid=store.grid, codebook=store.codebook,
        source="copy", shard_size=100,
    ) as writer:  # fmt: skip
        writer.add([store.keys(int(i)) for i in kept], store.grids(kept))
    return TokenStore.open(path)


def test_an_image_does_not_retrieve_itself(pairs, index, retrieved, tmp_path):
    """The same as a search of a database that lacks the image."""
    found = Neighbours(retrieved, pairs, K, index.digest)
    everything = torch.arange(144)
    for pair in (0, 3, int(pairs.held_out[0])):
        own = own_images(pairs.store, index.store)(pair)
        assert len(own) == (pair in pairs.train)  # held-out ones are not in the database
        rest = without(index.store, own, tmp_path / f"codes{pair}")
        out = tmp_path / f"index{pair}"
        build_index(rest, out, neighborhood=Neighborhood("causal"), mode="exact")
        codes = torch.from_numpy(pairs.store.grids(np.array([pair])).astype(np.int64))
        known = torch.ones_like(codes, dtype=torch.bool)
        wanted = open_index(out, rest).search(codes, known, everything, K).codes
        assert torch.equal(found.codes(np.array([pair]), K), wanted)
    # Without the exclusion a training image would retrieve its own code first everywhere.
    codes = torch.from_numpy(pairs.store.grids(np.array([3])).astype(np.int64))
    tempting = index.search(codes, torch.ones_like(codes, dtype=torch.bool), everything, K)
    assert not torch.equal(tempting.codes, found.codes(np.array([3]), K))


def test_copies_under_another_name_are_left_out_too(pairs, index, tmp_path):
    store = index.store
    writer = StoreWriter(
        tmp_path / "codes", tokenizer_digest=store.tokenizer_digest, grid=store.grid,
        codebook=store.codebook, source="copies", shard_size=100,
    )  # fmt: skip
    with writer:
        writer.add([f"copy/{i}" for i in range(40)], store.grids(np.array([0] * 39 + [1])))
    copies = TokenStore.open(tmp_path / "codes")
    assert list(own_images(pairs.store, copies)(0)) == list(range(39))
    build_index(copies, tmp_path / "index", neighborhood=Neighborhood("causal"), mode="exact")
    grid = pairs.store.grids(np.array([0]))
    found = nearest_others(
        open_index(tmp_path / "index", copies), grid, [own_images(pairs.store, copies)(0)], K
    )
    other = set(store.grids(np.array([1])).flatten().tolist()) | {65535}
    assert set(found.flatten().tolist()) <= other
    inside = Neighborhood("causal").valid_positions(12, 12).numpy().reshape(-1)
    assert (found[0, inside] != 65535).all()  # k of them although the nearest 4 000 are its own
    assert (found[0, ~inside] == 65535).all()


KILLED = """
import sys
from arrag.retrieval.index import open_index
from arrag.data.token_store import TokenStore
from arrag.training.neighbours import precompute
from arrag.training.pairs import Pairs
pairs, codes, index, out = sys.argv[1:]
precompute(Pairs.open(pairs), open_index(index, TokenStore.open(codes)), out, 5, shard_images=2)
"""


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_retrieval_goes_on_after_a_kill(pairs, index, retrieved, root, tmp_path):
    out, folder = tmp_path / "out", index.store.path.parent
    arguments = [pairs.path, folder / "codes", folder / "index", out]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *map(str, arguments)], cwd=root)
    wait_for(lambda: (out / "shard-00001.npy").exists(), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "manifest.json").exists()
    with pytest.raises(ArragError, match="finished"):
        Neighbours(out, pairs, K, index.digest)
    first = (out / "shard-00000.npy").stat().st_mtime_ns
    precompute(pairs, index, out, K, shard_images=2)
    assert (out / "shard-00000.npy").stat().st_mtime_ns == first
    rows = np.arange(len(pairs.captions))
    whole = Neighbours(retrieved, pairs, K, index.digest).codes(rows, K)
    assert torch.equal(Neighbours(out, pairs, K, index.digest).codes(rows, K), whole)


def test_retrieval_by_parts_is_that_of_one_job(pairs, index, tmp_path):
    whole, out = tmp_path / "whole", tmp_path / "out"
    manifest = precompute(pairs, index, whole, K, shard_images=2)
    precompute(pairs, index, out, K, shard_images=2, part=JobPart(2, 3))
    first = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert 0 < len(first) < len(manifest["shards"])
    for i in (4, 1, 3, 2):  # another number of parts in between
        with pytest.raises(ArragError, match="finished"):
            Neighbours(out, pairs, K, index.digest)
        precompute(pairs, index, out, K, shard_images=2, part=JobPart(i, 4))
    damaged = out / "shard-00003.npy"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(ArragError) as error:
        precompute(pairs, index, out, K, shard_images=2)
    assert str(damaged) in str(error.value)
    damaged.unlink()
    precompute(pairs, index, out, K, shard_images=2, part=JobPart(1, 1))
    dates = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert precompute(pairs, index, out, K, shard_images=2) == manifest
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.npy")} == dates
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_retrieval_of_something_else_is_refused(pairs, index, retrieved, tmp_path):
    with pytest.raises(MismatchError) as error:
        Neighbours(retrieved, pairs, K, "other")
    assert error.value.field == "index_digest"
    with pytest.raises(ArragError, match=f"holds the {K} nearest .* but {K + 1} are wanted"):
        Neighbours(retrieved, pairs, K + 1, index.digest)
    with pytest.raises(MismatchError) as error:
        precompute(pairs, index, retrieved, 4)
    assert error.value.field == "k"
    with pytest.raises(ArragError, match="-k: found 100000; wanted 1 to 3300"):
        precompute(pairs, index, tmp_path / "out", 100_000)


# --- training


TRAIN = """
import sys
from arrag.retrieval.index import open_index
from arrag.data.token_store import TokenStore
from tests.test_train import SMALL, faid_data, janus
from arrag.training.adapt import train
from arrag.training.pairs import Pairs
pairs, codes, index, retrieved, checkpoint, out, work = sys.argv[1:]
pairs, index = Pairs.open(pairs), open_index(index, TokenStore.open(codes))
data = faid_data(pairs, index, retrieved)
train("faid", janus(checkpoint), SMALL, data, out, work, batch_size=4, save_minutes=0, cpu=True)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs, index, retrieved, micro_janus):
    """A FAiD adapter trained in one go, and its control."""
    folder = tmp_path_factory.mktemp("trained")
    for kind, data in (("faid", faid_data(pairs, index, retrieved)), ("finetune", Data(pairs))):
        train(
            kind, janus(micro_janus), SMALL, data, folder / kind, folder / f"{kind}.work",
            batch_size=4, cpu=True,
        )  # fmt: skip
    return folder


def logged(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("per_second")} for row in rows]


def test_a_killed_training_gives_the_same_adapter(
    trained, pairs, index, retrieved, micro_janus, root, tmp_path
):
    folder = index.store.path.parent
    paths = [pairs.path, folder / "codes", folder / "index", retrieved, micro_janus]
    arguments = [*map(str, paths), str(tmp_path / "faid"), str(tmp_path / "faid.work")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    log = tmp_path / "faid.work" / "log.jsonl"
    process = subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], env=environment)
    wait_for(lambda: log.exists() and log.read_text().count("\n") >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "faid").exists()
    train(
        "faid", janus(micro_janus), SMALL, faid_data(pairs, index, retrieved),
        tmp_path / "faid", tmp_path / "faid.work", batch_size=4, cpu=True,
    )  # fmt: skip
    for name in ("adapter.safetensors", "delta.safetensors"):
        once, again = (load_file(f / "faid" / name) for f in (trained, tmp_path))
        assert once.keys() == again.keys()
        assert all(torch.equal(once[key], again[key]) for key in once)
    assert logged(log) == logged(trained / "faid.work" / "log.jsonl")
    assert tree_digest(tmp_path / "faid") == tree_digest(trained / "faid")


def test_an_adapter_s_folder(trained, micro_janus):
    for kind in ("faid", "finetune"):
        config = read_adapter(trained / kind, kind, tree_digest(micro_janus))
        assert config["steps"] == 5 and len(config["held_out"]["nats"]) == HELD_OUT
        assert (trained / kind / "adapter.safetensors").exists() == (kind == "faid")
        assert "nats a code" in (trained / kind / "README.md").read_text()
    with pytest.raises(ArragError, match="kind is 'finetune', but 'faid' is in use"):
        read_adapter(trained / "finetune", "faid", tree_digest(micro_janus))
    with pytest.raises(ArragError, match="backbone is .* but 'another' is in use"):
        read_adapter(trained / "faid", "faid", "another")
    with pytest.raises(ArragError, match="no config.json there"):
        read_adapter(trained, "faid", "another")


def test_comparison_of_two_adapters(trained, tmp_path):
    found = compare(trained / "faid", trained / "finetune")
    assert found["images"] == HELD_OUT
    assert found["difference"][0] == pytest.approx(found["first"][0] - found["second"][0], abs=2e-5)
    assert found["difference"][1] <= found["difference"][0] <= found["difference"][2]
    shutil.copytree(trained / "faid", tmp_path / "other")
    config = json.loads((tmp_path / "other/config.json").read_text())
    config["training"]["pairs_digest"] = "others"
    (tmp_path / "other/config.json").write_text(json.dumps(config))
    with pytest.raises(ArragError, match="pairs_digest is others in one"):
        compare(tmp_path / "other", trained / "finetune")


def trainer(kind, data, micro_janus, batch_size=4, **changes):
    accelerator = Accelerator(cpu=True)
    training = SMALL.model_copy(update=changes)
    return Trainer(kind, janus(micro_janus), training, 0, data, accelerator, batch_size)


def test_merged_weights_equal_those_trained(pairs, micro_janus, tmp_path):
    made = trainer("finetune", Data(pairs), micro_janus)
    with torch.no_grad():  # LoRA starts at zero, which would hide a transposed factor
        for name, weight in made.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
            elif weight.requires_grad:
                weight.copy_(weight.half())  # as it is stored
    save_delta(tmp_path / "delta.safetensors", made.model.delta())
    fresh = JanusBackbone.load(micro_janus)
    merge_delta(tmp_path / "delta.safetensors", fresh.model)
    made.model.eval()
    prompts, codes = [pairs.captions[0]], torch.from_numpy(pairs.store.grids([0]).astype(np.int64))
    ours = made.backbone.teacher_forced(prompts, codes)
    theirs, bare = (
        b.teacher_forced(prompts, codes) for b in (fresh, JanusBackbone.load(micro_janus))
    )
    assert (ours - theirs).abs().max() < 0.01 < (ours - bare).abs().max()


def test_a_delta_of_another_model_is_refused(micro_janus, tmp_path):
    backbone = JanusBackbone.load(micro_janus)
    before = {name: p.clone() for name, p in backbone.model.named_parameters()}
    head = "model.generation_head.vision_head.weight"
    for delta, message in (
        ({"model.nothing": torch.ones(2)}, "changes model.nothing, which the backbone does not"),
        ({head: torch.ones(2, 2)}, r"is \[2, 2\], the backbone's is \[1024, 256\]"),
        ({f"{head}.lora_a": torch.ones(2, 256)}, "needs .lora_a"),
    ):
        save_delta(tmp_path / "delta.safetensors", delta)
        with pytest.raises(ArragError, match=message):
            merge_delta(tmp_path / "delta.safetensors", backbone.model)
    assert all(torch.equal(p, before[name]) for name, p in backbone.model.named_parameters())


def test_the_control_sees_the_same_batches(pairs, index, retrieved, micro_janus):
    data = faid_data(pairs, index, retrieved)
    ours = trainer("faid", data, micro_janus)
    control = trainer("finetune", Data(pairs), micro_janus, batch_size=2)
    for step in range(3):
        places = np.arange(step * 4, step * 4 + 4)
        assert np.array_equal(ours._pairs_at(places), control._pairs_at(places))
        batch = ours._batch(ours._pairs_at(places), ours._dropped(places))
        other = control._batch(control._pairs_at(places), control._dropped(places))
        for name in ("ids", "mask", "codes"):
            assert torch.equal(batch[name], other[name])
        gone = torch.from_numpy(ours._dropped(places))
        assert (batch["retrieved"][gone] == -1).all()
    epoch = ours._pairs_at(np.arange(len(pairs.train)))
    assert sorted(epoch) == sorted(pairs.train)
    assert not np.array_equal(epoch, ours._pairs_at(np.arange(16, 32)))


def test_gradients_do_not_depend_on_how_a_batch_is_cut(pairs, index, retrieved, micro_janus):
    data = faid_data(pairs, index, retrieved)
    still = LoraSettings(r=2, alpha=4.0, dropout=0.0)
    gradients = []
    for size in (4, 2):
        made = trainer("faid", data, micro_janus, batch_size=size, lora=still)
        assert made.slices == 4 // size
        for i in range(made.slices):
            (made.loss_of_slice(made.slices + i) / made.slices).backward()
        trained = [p for p in made.model.parameters() if p.requires_grad]
        assert all(p.grad is not None for p in trained)
        gradients.append(torch.cat([p.grad.flatten() for p in trained]))
    assert torch.allclose(*gradients, atol=1e-5 * gradients[0].abs().max())


def test_only_what_is_asked_for_is_trained(pairs, micro_janus):
    made = trainer("finetune", Data(pairs), micro_janus, head=False)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all("lora_" in name and ".language_model." in name for name in names)
    assert {name.split(".lora_")[0].split(".")[-1] for name in names} == {"q_proj", "v_proj"}
    made = trainer("finetune", Data(pairs), micro_janus, lora=None)
    names = [name for name, p in made.model.named_parameters() if p.requires_grad]
    assert names and all(".generation_head." in name for name in names)
    with pytest.raises(ArragError, match="lora is null and head false, so that 'finetune' would"):
        trainer("finetune", Data(pairs), micro_janus, lora=None, head=False)


def test_a_batch_that_cannot_be_cut_evenly(pairs, micro_janus):
    with pytest.raises(ArragError, match="global_batch: 4 is no multiple of 3"):
        trainer("finetune", Data(pairs), micro_janus, batch_size=3)


def test_pairs_of_another_generator(pairs, tmp_path):
    from arrag.training.trainer import _check_fit

    backbone = type("Other", (), {"grid": (24, 24), "codebook_size": 1024})
    with pytest.raises(ArragError, match=r"grids of \[12, 12\].*wants \[24, 24\]"):
        _check_fit(backbone, pairs, tmp_path)


def test_nan_ends_the_training(pairs, micro_janus, tmp_path):
    mad = SMALL.model_copy(update={"learning_rate": 1e30, "warmup": 0.0})
    with pytest.raises(ArragError, match="the loss is (NaN|infinite) at step .*lower"):
        train(
            "finetune", janus(micro_janus), mad, Data(pairs), tmp_path / "out", tmp_path / "work",
            batch_size=4, cpu=True,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
