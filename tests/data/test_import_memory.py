"""Imports of features that are far larger than the memory they may take."""

import json
from functools import partial
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.limited import call_within
from tests.data.own import write_csv, write_features
from univa.data import read_store
from univa.data.importers.csd import ImportCsd
from univa.data.importers.rows import Attachments
from univa.data.importers.table import ImportTable
from univa.data.store.write import StoreOptions

MEGABYTE = 1 << 20
OPTIONS = StoreOptions(shard_megabytes=4, progress=False)
LIMIT = 24 * MEGABYTE
VIDEOS = {"train": ["a", "b", "c"], "valid": ["d"], "test": ["e"]}


def run_csd(labels: Path, folds: Path, audio: Path, store: Path) -> None:
    ImportCsd(
        labels=labels,
        store=store,
        folds=folds,
        attachments=Attachments(audio_features=audio),
        options=OPTIONS,
    ).run()


def run_table(table: Path, audio: Path, store: Path) -> None:
    attachments = Attachments(audio_features=audio)
    ImportTable(table=table, store=store, attachments=attachments, options=OPTIONS).run()


def csd_import(folder: Path):
    """Five videos of 8 MiB each, ten utterances in each."""
    rows, size = 32768, 64
    rng = np.random.default_rng(0)
    times = np.stack([np.arange(rows), np.arange(1, rows + 1)], 1) * 0.01
    with h5py.File(folder / "audio.csd", "w") as audio, h5py.File(folder / "l.csd", "w") as labels:
        for video in chain.from_iterable(VIDEOS.values()):
            group = audio.create_group(f"COVAREP/data/{video}")
            group["features"] = rng.standard_normal((rows, size), np.float32)
            group["intervals"] = times
            group = labels.create_group(f"All Labels/data/{video}")
            group["features"] = np.ones((10, 7))
            ends = np.linspace(0, rows * 0.01, 11)
            group["intervals"] = np.stack([ends[:-1], ends[1:]], 1)
    (folder / "folds.json").write_text(json.dumps(VIDEOS))
    return partial(run_csd, folder / "l.csd", folder / "folds.json", folder / "audio.csd"), 40


def table_import(folder: Path):
    """Fifty utterances of about 1 MiB each."""
    splits = ["train"] * 48 + ["valid", "test"]
    rows = [
        {"id": f"u{n}", "dialogue": f"d{n}", "split": split, "text": "x", "labels": "a"}
        for n, split in enumerate(splits)
    ]
    names = [row["id"] for row in rows]
    write_features(folder / "audio", names, 1 << 17, per_file=1)
    total = sum(f.stat().st_size for f in (folder / "audio").glob("*.safetensors")) / MEGABYTE
    return partial(run_table, write_csv(folder / "t.csv", rows), folder / "audio"), total


@pytest.mark.parametrize("make", [csd_import, table_import])
def test_memory_is_bounded(make, tmp_path):
    run, megabytes = make(tmp_path)
    assert megabytes > 1.5 * LIMIT / MEGABYTE
    assert call_within(LIMIT, run, tmp_path / "store") == ""
    corpus = read_store(tmp_path / "store", modalities=("audio",))
    found = sum(
        u.features.places["audio"].steps * u.features.places["audio"].size
        for split in corpus.splits.values()
        for u in split.utterances
    )
    assert found * 4 == pytest.approx(megabytes * MEGABYTE, rel=0.01)
