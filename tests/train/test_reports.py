"""Figures per label and threshold curves, against their definitions."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.train.killed import start, train_and_be_killed
from tests.train.tiny import tiny
from univa.cli import main
from univa.errors import UserError
from univa.evaluation.tables import label_figures, label_table, threshold_curves
from univa.metrics import choose_thresholds_on_validation, compute_metrics, decide, threshold_grid
from univa.runs.log import RunLog
from univa.train import train


def test_label_figures():
    labels = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]])
    predictions = torch.tensor([[1, 0, 0], [0, 0, 0], [1, 1, 0], [1, 1, 0]])
    figures = label_figures(predictions, labels, ["a", "b", "c"])
    assert figures["a"] == {
        "precision": 2 / 3,
        "recall": 2 / 3,
        "f1": 2 / 3,
        "present": 3,
        "predicted": 3,
    }
    assert figures["b"]["precision"] == 0.5
    assert figures["b"]["recall"] == 1
    assert set(figures["c"].values()) == {0}
    f1 = compute_metrics(predictions, labels, ["a", "b", "c"]).label_f1
    assert {k: v["f1"] for k, v in figures.items()} == pytest.approx(f1)
    assert label_table(figures).splitlines()[2].split() == ["b", "50.0", "100.0", "66.7", "1", "2"]


def test_curves_are_the_metrics_at_each_threshold():
    generator = torch.Generator().manual_seed(1)
    chances = torch.rand(40, 2, generator=generator)
    labels = torch.randint(2, (40, 2), generator=generator)
    curves = threshold_curves(chances, labels, ["a", "b"])
    assert len(curves["threshold"]) == len(threshold_grid())
    for place in (0, 30, 98):
        threshold = torch.tensor([curves["threshold"][place]] * 2)
        metrics = compute_metrics(decide(chances, threshold), labels, ["a", "b"])
        assert curves["micro_f1"][place] == metrics.micro_f1
        assert curves["label_f1"]["b"][place] == metrics.label_f1["b"]


def test_a_run_leaves_them_and_evaluate_repeats_them(tmp_path: Path, capsys):
    run = tmp_path / "run"
    train(tiny(run_folder=str(run), epochs=1))
    out = capsys.readouterr().out
    assert "precision" in out
    metrics = json.loads((run / "metrics.json").read_text())
    labels = json.loads((run / "labels.json").read_text())
    for split in ("valid", "test"):
        f1 = {name: one["f1"] for name, one in labels[split].items()}
        assert f1 == pytest.approx(metrics[split]["label_f1"])
    curves = json.loads((run / "threshold_curves.json").read_text())
    place = curves["valid"]["threshold"].index(round(metrics["thresholds"]["happy"], 6))
    assert curves["valid"]["micro_f1"][place] == metrics["valid"]["micro_f1"]
    assert max(curves["valid"]["micro_f1"]) == metrics["valid"]["micro_f1"]  # it was searched
    place = curves["valid"]["threshold"].index(0.3)
    micro = f"{100 * curves['valid']['micro_f1'][place]:.1f}"
    assert [line.split()[3] for line in out.splitlines() if line.startswith("0.3 ")] == [micro]
    for split, given in (("test", ["--report", str(tmp_path / "report")]), ("valid", [])):
        assert main(["evaluate", str(run), "--split", split, *given]) == 0
        report = tmp_path / "report" if given else run / f"evaluation-{split}"
        said = capsys.readouterr().out
        assert said.endswith(f"utterances: {report}\n")
        micro = f"{100 * curves[split]['micro_f1'][place]:.1f}"
        assert [line.split()[3] for line in said.splitlines() if line.startswith("0.3 ")] == [micro]
        assert json.loads((report / "labels.json").read_text()) == {split: labels[split]}
        again = json.loads((report / "threshold_curves.json").read_text())
        assert again == {split: curves[split]}
        rows = (report / f"predictions-{split}.jsonl").read_bytes()
        if split == "test":
            assert rows == (run / "predictions.jsonl").read_bytes()
        found = [json.loads(line) for line in rows.splitlines()]
        shares = {name: metrics["thresholds"][name] for name in labels[split]}
        for row in found:  # what is saved belongs together
            expected = [p > t for p, t in zip(row["probabilities"], shares.values(), strict=True)]
            assert row["predictions"] == expected
        present = [sum(row["labels"][i] for row in found) for i in range(6)]
        assert present == [one["present"] for one in labels[split].values()]


def test_either_or():
    chances = torch.tensor([0.1, 0.35, 0.45, 0.6, 0.65, 0.9])
    both = torch.stack([1 - chances, chances], 1)
    positive = torch.tensor([0, 0, 0, 0, 1, 1])
    labels = torch.stack([1 - positive, positive], 1)
    thresholds = choose_thresholds_on_validation(both, labels, search="either-or")
    assert 0.6 <= thresholds[1] < 0.65
    assert thresholds.sum() == 1
    predicted = decide(both, thresholds)
    assert torch.equal(predicted.long(), labels)
    # The accuracy of the table is the share of right decisions.
    wrong = labels.clone()
    wrong[0] = torch.tensor([0, 1])
    assert compute_metrics(predicted, wrong, ["n", "p"]).accuracy == pytest.approx(5 / 6)
    config = tiny()
    with pytest.raises(UserError, match="either-or is for two labels"):
        replace(config, threshold=replace(config.threshold, search="either-or"))


def test_tensorboard_is_named_where_it_is_missing(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"TensorBoard is not installed; pip install"):
        train(tiny(run_folder=str(tmp_path / "run"), tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_files_of_tensorboard_stand_in_the_order_in_which_they_were_written(tmp_path: Path):
    folder = tmp_path / "tensorboard"
    folder.mkdir()
    # Written within this second, and named so that another of this second would come before it.
    (folder / f"events.out.tfevents.{int(time.time()):010d}.~.1.0").touch()
    log = RunLog(tmp_path / "log.jsonl", keep_bytes=0, tensorboard=folder)
    log.close()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 2
    assert ".~." in names[0]


def test_tensorboard_gets_the_log_of_a_run_that_was_stopped_and_went_on(tmp_path: Path):
    """Written by TensorBoard, killed between two checkpoints, and read by its own reader."""
    run = tmp_path / "run"
    config = tiny(run_folder=str(run), epochs=2, tensorboard=True, save_every=0)
    process = start(train_and_be_killed, "step", 7, config)  # an epoch has 4
    process.join(60)
    assert process.exitcode == -9
    train(tiny(resume=str(run), epochs=2, tensorboard=True, save_every=0))
    reader = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    expected: dict[str, list[tuple[int, float]]] = {}
    for record in log:
        flat = {k: v for k, v in record.items() if k not in ("event", "step", "epoch")}
        for name in ("valid", "thresholds"):
            flat |= {f"{name}.{k}": v for k, v in flat.pop(name, {}).items()}
        figures = flat.pop("valid.label_f1", {})
        flat |= {f"valid.label_f1.{k}": v for k, v in figures.items()}
        for name, value in flat.items():
            expected.setdefault(f"{record['event']}/{name}", []).append((record["step"], value))
    assert {"step/loss", "epoch/valid.micro_f1", "epoch/valid.label_f1.sad"} <= expected.keys()
    assert sorted(reader.Tags()["scalars"]) == sorted(expected)
    for name, points in expected.items():
        found = reader.Scalars(name)
        # Each step once: what was written after the last checkpoint is void.
        assert [point.step for point in found] == [step for step, _ in points], name
        values = [value for _, value in points]
        assert [point.value for point in found] == pytest.approx(values, rel=1e-6), name
