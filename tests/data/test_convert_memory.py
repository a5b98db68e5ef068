"""A conversion stays within its memory, and one that was killed makes the same store."""

import os
import pickle
import resource
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.layout import features_of, write_layout
from tests.data.limited import call_within
from univa.data import read_store
from univa.data.importers.convert import convert
from univa.data.store import write as writing
from univa.data.store.read import file_sha256
from univa.errors import UserError

MEBI = 1 << 20
UTTERANCES, STEPS, SIZE = 104, 750, 768  # 228 MiB
LIMIT = 96 * MEBI
SHARD = 8  # MiB: three make 24


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, np.ndarray]:
    """A layout whose training audio is random numbers through and through, and their lengths."""
    dialogues = {"train": [8] * (UTTERANCES // 8), "valid": [2], "test": [2]}
    folder = write_layout(
        tmp_path_factory.mktemp("large"),
        dialogues=dialogues,
        modalities=("audio",),
        audio_size=SIZE,
    )
    rng = np.random.default_rng(7)
    lengths = rng.integers(200, STEPS + 1, UTTERANCES)
    # No padding of zeros: whatever is read of it takes memory.
    values = 1 + rng.random((UTTERANCES, STEPS, SIZE), dtype=np.float32)
    content = features_of(folder, "train", "audio")
    content["audio"] = values
    content["audio_utt_mask"] = (np.arange(STEPS) < lengths[:, None]).astype(np.float32)
    path = folder / "preprocess_data/final_feat/A/MOSEI_train_audio_utt_VA.pkl"
    with path.open("wb") as file:
        pickle.dump({"train": content}, file, protocol=4)
    assert path.stat().st_blocks * 512 >= values.nbytes > 2 * LIMIT  # it lies on the disk in full
    some = values[:, :: STEPS - 1, :5].copy()
    del values, content
    return folder, np.concatenate([lengths[:, None], some[:, 0]], axis=1)


def convert_measured(folder: Path, store: Path, *, die_after: int = 0) -> None:
    """Convert; the peak of all resident memory, mapped and anonymous, stays within the limit."""
    if die_after:
        save, count = writing.save_file, iter(range(1, 1 << 20))

        def dying(tensors, path):
            save(tensors, path)
            if next(count) > die_after:
                os.truncate(path, Path(path).stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        writing.save_file = dying
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    convert(folder, store, shard_megabytes=SHARD, progress=False)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    assert SHARD * MEBI < grown < LIMIT, f"{grown / MEBI:.0f} MiB"


def load_whole(folder: Path) -> None:
    """What a reader does that unpickles the file."""
    features_of(folder, "train", "audio")


def test_the_limit_stops_a_reader_that_loads_the_file(large):
    with pytest.raises(pytest.fail.Exception, match="the process died"):
        call_within(LIMIT, load_whole, large[0])


def test_bounded_memory_and_a_kill_in_the_middle(large, tmp_path: Path):
    folder, known = large
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert call_within(LIMIT, convert_measured, folder, whole) == ""
    shards = sorted(path.name for path in whole.glob("train-audio-*"))
    assert len(shards) > 10
    corpus = read_store(whole, modalities=("audio",))
    for utterance, (length, *first) in zip(corpus.train.utterances, known, strict=True):
        features = utterance.features["audio"]
        assert features.shape == (length, SIZE)
        assert torch.equal(features[0, :5], torch.tensor(first, dtype=torch.float32))
        assert features.min() >= 1
    with pytest.raises(pytest.fail.Exception, match=r"the process died \(-9\)"):
        call_within(LIMIT, partial(convert_measured, die_after=5), folder, killed)
    assert len(list(killed.glob("train-*.safetensors"))) == 5
    assert len(list(killed.glob(".*.safetensors"))) == 1
    with pytest.raises(UserError, match="the store was not finished"):
        read_store(killed)
    before = {path.name: path.stat().st_mtime_ns for path in killed.glob("train-*.safetensors")}
    assert call_within(LIMIT, convert_measured, folder, killed) == ""
    for name, time in before.items():
        assert (killed / name).stat().st_mtime_ns == time, name  # sound shards are kept
    files = {path.name for path in whole.iterdir()}
    assert {path.name for path in killed.iterdir()} == files  # nothing half is left
    for name in files - {"progress.jsonl"}:
        assert file_sha256(killed / name) == file_sha256(whole / name), name
