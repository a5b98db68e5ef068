"""Run folders, stores, scorers and feature folders of earlier versions are read as they were."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from univa.cli import main
from univa.data import Split, read_store

KEPT = Path(__file__).parents[1] / "kept"


def probabilities(run: Path) -> dict[str, list[float]]:
    lines = (run / "predictions.jsonl").read_text().splitlines()
    return {row["id"]: row["probabilities"] for row in map(json.loads, lines)}


def assert_same_outcome(ours: Path, theirs: Path) -> None:
    found, expected = probabilities(ours), probabilities(theirs)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
    found, expected = (json.loads((run / "metrics.json").read_text()) for run in (ours, theirs))
    assert found["best_epoch"] == expected["best_epoch"]
    assert found["thresholds"] == expected["thresholds"]
    for split in ("valid", "test"):
        assert found[split]["label_f1"] == pytest.approx(expected[split]["label_f1"]), split
        assert found[split]["accuracy"] == pytest.approx(expected[split]["accuracy"]), split


def test_a_finished_run_is_evaluated(tmp_path: Path):
    run = Path(shutil.copytree(KEPT / "finished", tmp_path / "run"))
    assert main(["evaluate", str(run), "--output", str(tmp_path / "again.json")]) == 0
    found = json.loads((tmp_path / "again.json").read_text())
    expected = json.loads((run / "metrics.json").read_text())["test"]
    assert found["test"]["micro_f1"] == pytest.approx(expected["micro_f1"])
    written = (run / "evaluation-test" / "predictions-test.jsonl").read_text().splitlines()
    for row in map(json.loads, written):
        assert row["probabilities"] == pytest.approx(probabilities(run)[row["id"]], rel=1e-4)


def test_a_stopped_run_is_resumed(tmp_path: Path):
    run = Path(shutil.copytree(KEPT / "stopped", tmp_path / "run"))
    assert main(["train", "--resume", str(run), "--no-progress"]) == 0
    assert_same_outcome(run, KEPT / "finished")


def features(split: Split) -> dict[str, torch.Tensor]:
    """Audio features by utterance."""
    return {u.id: u.features["audio"] for u in split.utterances}


def test_a_store_and_a_feature_folder_hold_what_they_held(tmp_path: Path):
    table, folder, again = KEPT / "table.csv", KEPT / "features", tmp_path / "again"
    options = ["--audio-features", str(folder), "--audio-va", str(KEPT / "audio-va.csv")]
    arguments = ["import-table", str(table), str(again), *options, "--no-progress"]
    assert main(["data", *arguments]) == 0
    with table.open(encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    written = {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}
    kept, made = (
        read_store(path, modalities=("text", "audio")) for path in (KEPT / "store", again)
    )
    assert kept.label_names == made.label_names == ("joy", "sad", "calm")
    assert kept.splits.keys() == made.splits.keys()
    seen = 0
    for name, split in kept.splits.items():
        assert torch.equal(split.labels, made.splits[name].labels)
        assert features(split).keys() == features(made.splits[name]).keys()
        for utterance, other in zip(split.utterances, made.splits[name].utterances, strict=True):
            assert utterance.text == other.text == rows[utterance.id]["text"]
            assert utterance.coordinates == other.coordinates
        for found in (features(split), features(made.splits[name])):
            for utterance, values in found.items():
                assert torch.equal(values, written[utterance])
                seen += 1
    assert seen == 2 * len(rows)


def test_a_scorer_gives_what_it_gave(tmp_path: Path):
    output = tmp_path / "va.json"
    arguments = ["--model", str(KEPT / "scorer"), "--manifest", str(KEPT / "table.csv")]
    arguments += ["--output", str(output), "--device", "cpu", "--no-progress"]
    assert main(["va", "score", "--modality", "text", *arguments]) == 0
    found, expected = (json.loads(path.read_text()) for path in (output, KEPT / "text-va.json"))
    for split in ("train", "valid", "test"):
        utterances = expected[split]
        assert found[split].keys() == utterances.keys()
        for name, (text, *point) in utterances.items():
            assert found[split][name][0] == text
            point_found = [float(value) for value in found[split][name][1:]]
            # Four decimals are written; the last may be rounded otherwise on another processor.
            assert point_found == pytest.approx([float(value) for value in point], abs=1.1e-4)
