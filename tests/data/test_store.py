"""The store: what goes in comes out, in bounded memory, and damage is named."""

import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.layout import write_layout
from tests.data.limited import call_within
from univa.cli import main
from univa.data import Collator, read_authors, read_store
from univa.data.importers.convert import convert
from univa.data.store import write as writing
from univa.errors import UserError
from univa.utils.lock import FolderLock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_layout(tmp_path / "data")


def same(corpus, other, dtype=torch.float32) -> None:
    assert corpus.label_names == other.label_names
    for name, split in corpus.splits.items():
        theirs = other.splits[name]
        assert split.dialogue_lengths == theirs.dialogue_lengths
        for a, b in zip(split.utterances, theirs.utterances, strict=True):
            assert (a.id, a.dialogue_id, a.text) == (b.id, b.dialogue_id, b.text)
            assert torch.equal(a.labels, b.labels)
            assert a.coordinates == b.coordinates
            assert a.features.keys() == b.features.keys()
            for modality in a.features:
                expected = b.features[modality].to(dtype).float()
                assert torch.equal(a.features[modality], expected)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("text", ["tokens", "vectors"])
def test_what_goes_in_comes_out(folder, tmp_path, dtype, text, monkeypatch):
    # A few sequences per shard.
    monkeypatch.setattr(writing, "_plans", small_plans(writing._plans))
    convert(folder, tmp_path / "store", dtype=dtype, progress=False)
    assert len(list((tmp_path / "store").glob("train-text-*.safetensors"))) > 1
    other = read_authors(folder, text=text)
    same(read_store(tmp_path / "store", text=text), other, getattr(torch, dtype))


def small_plans(plans):
    return lambda corpus, vectors, itemsize, most: plans(corpus, vectors, itemsize, 10_000)


def test_no_padding(folder, tmp_path):
    convert(folder, tmp_path / "store", progress=False)
    corpus = read_authors(folder)
    real = sum(u.features["audio"].numel() for s in corpus.splits.values() for u in s.utterances)
    sizes = sum(f.stat().st_size for f in (tmp_path / "store").glob("*-audio-*"))
    assert 4 * real < sizes < 4 * real + 3 * 200  # and a header per shard


def test_a_conversion_that_was_stopped_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_plans", small_plans(writing._plans))
    write, written = writing._write, []

    def counted(path, plan, dtype):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, plan, dtype)

    store = tmp_path / "store"
    monkeypatch.setattr(writing, "_write", counted)
    with pytest.raises(KeyboardInterrupt):
        convert(folder, store, progress=False)
    with pytest.raises(UserError, match=r"the store was not finished: run the same"):
        read_store(store)
    with pytest.raises(UserError, match="begun with other options"):
        convert(folder, store, dtype="float16", progress=False)
    first = list(written)
    # One finished shard is damaged meanwhile, and the last line of the progress is cut off.
    (store / first[1]).write_bytes(b"damaged")
    with (store / "progress.jsonl").open("a") as log:
        log.write('{"name": "half')
    monkeypatch.setattr(
        writing, "_write", lambda p, q, d: (written.append(p.name), write(p, q, d))[1]
    )
    convert(folder, store, progress=False)
    again = written[4:]
    assert [name for name in again if name in first] == [first[1]]
    same(read_store(store), read_authors(folder))
    with pytest.raises(UserError, match="a finished store is here"):
        convert(folder, store, progress=False)


def test_two_conversions_at_once_do_not_meet(folder, tmp_path, monkeypatch, capsys):
    store, write, said = tmp_path / "store", writing._write, []

    def interfered(path, plan, dtype):
        if len(said) == 0:
            said.append(None)
            assert main(["data", "convert", str(folder), str(store), "--no-progress"]) == 2
            said[0] = capsys.readouterr().err
        return write(path, plan, dtype)

    monkeypatch.setattr(writing, "_write", interfered)
    convert(folder, store, progress=False)
    assert said[0].startswith(f"univa: error: {store}: another process is at work in this folder")
    assert said[0].count("\n") == 1
    same(read_store(store), read_authors(folder))
    lines = (store / "progress.jsonl").read_text().splitlines()
    names = [json.loads(line).get("name") for line in lines]
    assert len(set(names)) == len(names)


def test_the_lock_of_a_killed_process_is_not_kept_by_its_children(tmp_path):
    """A worker that outlives it for some seconds must not keep the next run out."""
    holder = """
import os, sys, time
from pathlib import Path
from univa.utils.lock import FolderLock
with FolderLock(Path(sys.argv[1])) as lock:
    lock.take()
    if not os.fork():  # what a child does after a fork is done by now
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    child = int(process.stdout.readline())
    try:
        with (
            pytest.raises(UserError, match="another process is at work"),
            FolderLock(tmp_path) as a,
        ):
            a.take()
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        for _ in range(2):
            with FolderLock(tmp_path) as lock:
                lock.take()
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_full_disk_is_one_line_and_the_conversion_goes_on(folder, tmp_path, capfd):
    """No file may grow beyond 9 KiB: some shards fit, the next does not."""
    store = tmp_path / "store"
    ours, theirs = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9 << 10, theirs))
    try:
        assert main(["data", "convert", str(folder), str(store), "--no-progress"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (ours, theirs))
    said = capfd.readouterr().err
    assert "train-text-00000.safetensors: cannot write: " in said
    assert "give the same command again" in said
    assert said.count("\n") == 1
    assert not list(store.glob("*train-text*"))
    assert main(["data", "convert", str(folder), str(store), "--no-progress"]) == 0
    same(read_store(store), read_authors(folder))


def test_damage_is_named(folder, tmp_path, capsys):
    store = tmp_path / "store"
    convert(folder, store, progress=False)
    assert main(["data", "verify", str(store)]) == 0
    shard = store / "valid-audio-00000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    corpus = read_store(store)
    assert corpus.train.utterances[0].features["audio"].shape[1] == 12
    for _ in range(2):  # it is not taken for sound the second time
        with pytest.raises(UserError, match=rf"{shard}: damaged, its SHA-256 is"):
            corpus.valid.utterances[0].features["audio"]
    assert main(["data", "verify", str(store)]) == 2
    assert f"{shard}: missing or damaged" in capsys.readouterr().err
    (store / "manifest.jsonl").rename(store / "kept")
    convert(folder, store, progress=False)  # mends that shard alone
    assert main(["data", "verify", str(store)]) == 0
    # What the message tells to do mends it.
    for damage in (shard.unlink, lambda: shard.write_bytes(good[:-1])):
        damage()
        with pytest.raises(UserError, match=rf"{shard}: ") as caught:
            read_store(store)
        assert "; delete manifest.jsonl there and run the same" in str(caught.value)
        read_store(store, modalities=("vision",))  # that shard is not needed
        with pytest.raises(UserError, match=r"delete manifest\.jsonl alone"):
            convert(folder, store, progress=False)
        (store / "manifest.jsonl").unlink()
        convert(folder, store, progress=False)
        assert shard.read_bytes() == good
    manifest = store / "manifest.jsonl"
    whole = manifest.read_text()
    for broken in (whole.replace("train0", "trainO", 1), whole[: len(whole) // 2], "", "[]\n"):
        manifest.write_text(broken)
        with pytest.raises(UserError, match=rf"{manifest}: damaged or cut off"):
            read_store(store)


def test_a_modality_that_is_not_there(folder, tmp_path):
    for path in (folder / "preprocess_data/final_feat/V").iterdir():
        path.unlink()
    convert(folder, tmp_path / "store", progress=False)
    with pytest.raises(UserError, match="no vision features in this store"):
        read_store(tmp_path / "store")
    read_store(tmp_path / "store", modalities=("text", "audio"))


def test_float16_refuses_what_it_cannot_hold(folder, tmp_path):
    path = next((folder / "preprocess_data/final_feat/A").glob("*train*"))
    content = pickle.loads(path.read_bytes())
    content["train"]["audio"][2, 0, 3] = 1e5
    path.write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(UserError, match=r"audio features of utterance 'train0_2' are too large"):
        convert(folder, tmp_path / "store", dtype="float16", progress=False)


def sparse_pickle(path: Path, split: str, count: int, steps: int, size: int) -> None:
    """A feature file whose array is a hole of zeros, so that it takes no room on the disk."""
    mask = np.zeros((count, steps), np.float32)
    mask[:, :2] = 1
    length = count * steps * size * 4
    numpy = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4K\x00K\x01tR(K\x03X\x01\x00\x00\x00<NNN"
    dtype += b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    key = b"X" + len(split).to_bytes(4, "little") + split.encode()
    start = b"\x80\x04}(" + key + b"}(X\x05\x00\x00\x00audio" + numpy + b"(K\x01"
    shape = b"".join(b"J" + n.to_bytes(4, "little") for n in (count, steps, size)) + b"\x87"
    start += shape + dtype + b"\x89\x8e" + length.to_bytes(8, "little")
    rest = pickle.dumps({"audio_utt_mask": mask, "audio_VA_values": [[0.1, 0.2]] * count}, 3)
    items = rest[rest.index(b"(") + 1 : -2]  # without protocol, dict and its end
    with path.open("wb") as file:
        file.write(start)
        file.seek(length, 1)
        file.write(b"tb" + items + b"uu.")


def test_a_file_of_more_than_four_gibibytes(tmp_path):
    folder = write_layout(tmp_path / "data", modalities=("audio",), audio_size=160_000)
    path = folder / "preprocess_data/final_feat/A/MOSEI_train_audio_utt_VA.pkl"
    limit = 1 << 30
    sparse_pickle(path, "train", 9, 750, 160_000)
    assert path.stat().st_size > 4 * limit
    convert_small = partial(convert, shard_megabytes=8, progress=False)
    assert call_within(limit, convert_small, folder, tmp_path / "store") == ""
    corpus = read_store(tmp_path / "store", modalities=("audio",))
    assert corpus.train.utterances[8].features["audio"].shape == (2, 160_000)


def tensors(batch) -> list[torch.Tensor]:
    found = []
    batch._map(lambda tensor: found.append(tensor) or tensor)
    return found


def test_opening_reads_no_shard(folder, tmp_path, monkeypatch):
    convert(folder, tmp_path / "store", progress=False)
    for shard in (tmp_path / "store").glob("*.safetensors"):
        shard.write_bytes(bytes(shard.stat().st_size))
    corpus = read_store(tmp_path / "store")
    assert corpus.feature_sizes == {"audio": 12, "vision": 10}
    assert corpus.longest("audio") <= 6
    assert set(corpus.train.utterances[0].features) == {"audio", "vision"}


def edit_manifest(store: Path, change) -> None:
    """Change the lines of a manifest, which keeps its checksum."""
    lines = [json.loads(line) for line in (store / "manifest.jsonl").read_text().splitlines()][:-1]
    text = "".join(json.dumps(line) + "\n" for line in change(lines) or lines)
    end = {"kind": "end", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (store / "manifest.jsonl").write_text(text + json.dumps(end) + "\n")


def without(kind: str, key: str):
    def change(lines):
        for line in lines:
            if line["kind"] == kind:
                del line[key]

    return change


def named(name: str):
    return lambda lines: [
        line | ({"name": name} if line["kind"] == "shard" else {}) for line in lines
    ]


@pytest.mark.parametrize(
    "change",
    [
        *(without("store", key) for key in ("labels", "dtype", "features")),
        *(without("shard", key) for key in ("name", "modality", "rows", "bytes", "sha256")),
        *(without("utterance", key) for key in ("split", "dialogue", "id", "labels", "va")),
        *(named(name) for name in ("../secret.safetensors", "/etc/passwd", "a/b.safetensors", "")),
        lambda lines: [*lines, 7],
        lambda lines: [
            line | ({"features": {"audio": ["x", 0, 1]}} if line["kind"] == "utterance" else {})
            for line in lines
        ],
    ],
)
def test_a_manifest_made_by_hand_is_one_line(folder, tmp_path, change, capsys):
    store = tmp_path / "store"
    convert(folder, store, progress=False)
    edit_manifest(store, change)
    with pytest.raises(UserError, match=r"manifest\.jsonl: not what") as caught:
        read_store(store)
    assert "\n" not in str(caught.value)
    assert main(["data", "verify", str(store)]) == 2
    assert "manifest.jsonl: not what" in capsys.readouterr().err


def test_training_finds_damaged_shards_before_its_first_step(folder, tmp_path, capsys, monkeypatch):
    def no_step(*_):
        raise AssertionError("training has begun")

    monkeypatch.setattr("univa.train.setup.make_optimizer", no_step)
    store = tmp_path / "store"
    convert(folder, store, progress=False)
    command = ["train", "mosei-glove", "--data", str(store), "--device", "cpu", "--model.text-dim"]
    command += ["300", "--model.audio-dim", "12", "--model.vision-dim", "10", "--run-folder"]
    command += [str(tmp_path / "run"), *("--model.hidden-size", "16", "--model.num-heads", "2")]
    shard = store / "test-audio-00000.safetensors"
    good = shard.read_bytes()
    shard.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert main(command) == 2
    assert f"{shard}: damaged, its SHA-256" in capsys.readouterr().err
    shard.write_bytes(good)
    (store / "manifest.jsonl").unlink()
    assert main(command) == 2
    assert "the store was not finished: run the same" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_batches_from_workers_are_those_of_one_process(folder, tmp_path):
    from univa.data.batching.loader import load_batches

    convert(folder, tmp_path / "store", progress=False)
    batches = [[0, 1, 2], [3, 4], [5, 6, 7, 8]]

    def collator():
        return Collator(read_store(tmp_path / "store", text="vectors").train, buckets=2)

    alone = list(load_batches(collator(), batches, workers=0))
    state = torch.get_rng_state()
    for workers in (1, 2):
        found = list(load_batches(collator(), batches, workers=workers))
        assert [b.utterance_ids for b in found] == [b.utterance_ids for b in alone]
        for ours, theirs in zip(found, alone, strict=True):
            assert torch.equal(ours.labels, theirs.labels)
            for a, b in zip(tensors(ours), tensors(theirs), strict=True):
                assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), state)  # the run's own random numbers are left alone


def test_a_worker_names_the_damage(folder, tmp_path):
    from univa.data.batching.loader import load_batches

    convert(folder, tmp_path / "store", progress=False)
    shard = tmp_path / "store" / "train-vision-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-4] + b"abcd")
    collator = Collator(read_store(tmp_path / "store", text="vectors").train)
    # Jobs in the background of a shell start with SIGINT ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(UserError, match=rf"^{shard}: damaged") as caught:
            list(load_batches(collator, [[0], [1]], workers=1))
        assert "\n" not in str(caught.value)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert json.loads((tmp_path / "store" / "manifest.jsonl").read_text().splitlines()[0])


def test_missing_features_are_told_without_options_of_training(folder, tmp_path, capsys):
    features = folder / "preprocess_data/final_feat"
    (features / "A" / "MOSEI_valid_audio_utt_VA.pkl").unlink()
    for path in (), list(features.rglob("*.pkl")):
        for file in path:
            file.unlink()
        assert main(["data", "convert", str(folder), str(tmp_path / "store")]) == 2
        message = capsys.readouterr().err
        assert "_audio_utt_VA.pkl; put the audio features there" in message
        assert "--model" not in message
