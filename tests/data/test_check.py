"""What `univa data check` counts and finds, against counts made here."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.data.own import records, write_csv, write_features, write_scores
from univa.cli import main
from univa.data import read_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rows = records()
    ids = [row["id"] for row in rows]
    rows[4]["labels"] = ""
    rows[5]["text"] = ""
    write_features(tmp_path / "audio", ids, 4)
    write_scores(tmp_path / "va.csv", ids)
    table = write_csv(tmp_path / "table.csv", rows)
    more = ("--audio-features", tmp_path / "audio", "--text-va", tmp_path / "va.csv")
    args = [table, tmp_path / "store", *more, "--no-progress"]
    assert main(["data", "import-table", *map(str, args)]) == 0
    return tmp_path / "store"


def rewrite(store: Path, change) -> None:
    """Change the utterances of a manifest, and give it a checksum that fits."""
    path = store / "manifest.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()][:-1]
    change(lines)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    end = {"kind": "end", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    path.write_text(text + json.dumps(end) + "\n")


def check(store: Path, capsys, *options: str) -> tuple[int, str]:
    capsys.readouterr()
    status = main(["data", "check", str(store), *options, "--no-progress"])
    return status, capsys.readouterr().out


def test_counts(store, capsys):
    status, out = check(store, capsys, "--json")
    assert status == 0
    report = json.loads(out)
    corpus = read_store(store, modalities=("audio",))
    for name, split in corpus.splits.items():
        counts = report["splits"][name]
        assert counts["utterances"] == len(split)
        assert counts["dialogues"] == len(split.dialogues)
        assert counts["empty_labels"] == int((split.labels.sum(1) == 0).sum())
        assert counts["empty_texts"] == sum(not u.text for u in split.utterances)
        for place, label in enumerate(corpus.label_names):
            assert report["labels"][label][name] == int(split.labels[:, place].sum())
        low_mean_high = torch.tensor(report["scores"]["text"][name])
        scores = split.coordinates("text")
        expected = torch.stack([scores.amin(0), scores.mean(0), scores.amax(0)], 1)
        torch.testing.assert_close(low_mean_high, expected, rtol=0, atol=1e-4)
    assert sum(c["empty_labels"] for c in report["splits"].values()) >= 1
    lengths = sorted(
        len(u.features["audio"]) for split in corpus.splits.values() for u in split.utterances
    )
    found = report["lengths"]["audio"]
    assert (found["0"], found["100"]) == (lengths[0], lengths[-1])
    assert found["50"] == lengths[(len(lengths) - 1) // 2]
    assert report["errors"] == []
    assert "train: 1 utterances have no text" in report["warnings"]


def test_table_is_within_80_columns(store, capsys):
    rewrite(store, lambda lines: lines[0]["labels"].__setitem__(0, "a name " * 20))
    status, out = check(store, capsys)
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for word in ("utterances", "empty labels", "percentile", "V mean", "sad", "warning: train:"):
        assert word in out


def utterances(lines):
    return [line for line in lines if line["kind"] == "utterance"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda us: us[1].update(id=us[0]["id"]), "utterance id 'train0_0' comes 2 times"),
        (lambda us: us[0].update(split="test"), "dialogue 'train0' is in test and train"),
        (lambda us: us[0]["va"].update(text=[float("nan"), 0]), "train: 1 scores of text are NaN"),
        (lambda us: us[0].update(va={}), "train: 1 utterances have no scores of text"),
        (lambda us: us[0]["features"]["audio"].__setitem__(1, 999), "no steps 999 to"),
        (lambda us: [u.update(split="train") for u in us], "split 'valid' is empty"),
    ],
)
def test_errors(store, change, said, capsys):
    rewrite(store, lambda lines: change(utterances(lines)))
    status, out = check(store, capsys)
    assert status == 1
    assert said in " ".join(out.split("error: ", 1)[1].split())
    assert max(map(len, out.splitlines())) <= 80
    status, out = check(store, capsys, "--json")
    assert status == 1
    assert any(said in line for line in json.loads(out)["errors"])


def test_warnings_are_no_errors(store, capsys):
    def change(lines):
        for line in utterances(lines):
            line["labels"][0] = 1
            line["va"]["text"][0] = 3.0

    rewrite(store, change)
    status, out = check(store, capsys)
    assert status == 0
    assert "warning: every utterance of train has the label" in out
    assert "warning: train: scores of text go beyond -1 to 1" in out


def test_features_that_are_not_finite(store, capsys):
    path = store / "train-audio-00000.safetensors"
    with np.errstate(invalid="ignore"):
        values = np.full_like(np.zeros((1, 4), np.float32), np.nan)
    rows = next(
        json.loads(line)["rows"]
        for line in (store / "manifest.jsonl").read_text().splitlines()
        if f'"{path.name}"' in line
    )
    features = np.zeros((rows, 4), np.float32)
    features[:1] = values
    save_file({"features": features}, path)
    content = path.read_bytes()

    def change(lines):
        for line in lines:
            if line.get("name") == path.name:
                line |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    rewrite(store, change)
    status, out = check(store, capsys)
    assert status == 1
    assert "error: train-audio-00000.safetensors: features of 'train0_0' hold NaN" in out


def test_damage(store, tmp_path, capsys):
    shard = store / "test-audio-00000.safetensors"
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    status, out = check(store, capsys)
    assert status == 1
    assert "damaged, its SHA-256 is" in " ".join(out.split())
    shard.unlink()
    status, out = check(store, capsys)
    assert status == 1
    assert "cannot be read" in " ".join(out.split())
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "manifest.jsonl: no such file" in capsys.readouterr().err
    rewrite(store, lambda lines: utterances(lines)[0].pop("labels"))
    assert main(["data", "check", str(store)]) == 2
    assert "not what `univa data` writes (KeyError: 'labels')" in capsys.readouterr().err
