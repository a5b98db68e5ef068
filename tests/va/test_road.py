"""The whole road on real text, scaled down: fit-text, score-text, train, evaluate.

`docs/results.md` has the same commands at full size.
"""

import csv
import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open

from univa.cli import main
from univa.data import read_authors_text
from univa.metrics import compute_metrics, decide

DIALOGUES = {"train": 10, "valid": 5, "test": 5}
SENTENCES = {"train": 96, "dev": 48, "test": 48}
LONGEST = 8  # utterances of a dialogue


def _cut_emobank(source, target):
    seen = Counter()
    with (
        open(source, newline="", encoding="utf-8") as old,
        open(target, "w", newline="", encoding="utf-8") as new,
    ):
        reader = csv.DictReader(old)
        writer = csv.DictWriter(new, reader.fieldnames)
        writer.writeheader()
        for row in reader:
            if seen[row["split"]] < SENTENCES[row["split"]]:
                seen[row["split"]] += 1
                writer.writerow(row)


def _cut_mosei(source, target):
    """The first few dialogues of each split, long ones cut."""
    structure = json.loads((source / "preprocess_data" / "videos_structure.json").read_text())
    kept = {
        split: {video: ids[:LONGEST] for video, ids in list(videos.items())[: DIALOGUES[split]]}
        for split, videos in structure.items()
    }
    (target / "preprocess_data").mkdir(parents=True)
    (target / "preprocess_data" / "videos_structure.json").write_text(json.dumps(kept, indent=1))
    names = {name for videos in kept.values() for ids in videos.values() for name in ids}
    table = "final_multi_labels.csv"
    with (
        open(source / table, newline="", encoding="utf-8") as old,
        open(target / table, "w", newline="", encoding="utf-8") as new,
    ):
        reader = csv.DictReader(old)
        writer = csv.DictWriter(new, reader.fieldnames)
        writer.writeheader()
        writer.writerows(r for r in reader if f"{r['video_id']}_{r['clip_id']}" in names)
    return kept


@pytest.fixture(scope="module")
def road(shared, minilm, tmp_path_factory):
    """Walk it once; the tests look at what it left behind."""
    folder = tmp_path_factory.mktemp("road")
    data, table = folder / "data", folder / "sentences.csv"
    kept = _cut_mosei(shared / "data" / "mosei_text", data)
    _cut_emobank(shared / "data" / "emobank.csv", table)
    paths = SimpleNamespace(
        folder=folder,
        data=data,
        kept=kept,
        encoder=minilm,
        scorer=folder / "scorer",
        scores=folder / "scores.json",
        run=folder / "run",
        metrics=folder / "again.json",
    )
    for command in (
        f"va fit-text --data {table} --encoder {minilm} --output {paths.scorer} --epochs 1",
        f"va score-text --data {data} --scorer {paths.scorer} --output {paths.scores}",
        f"train mosei-text --data {data} --va-file {paths.scores} --text-encoder {minilm} "
        f"--run-folder {paths.run} --epochs 2 --data.batch-size 16",
        f"evaluate {paths.run} --output {paths.metrics}",
    ):
        quiet = [] if command.startswith("evaluate") else ["--no-progress"]
        assert main([*command.split(), "--device", "cpu", *quiet]) == 0, command
    return paths


def test_scorer_has_figures(road):
    figures = json.loads((road.scorer / "metrics.json").read_text())
    assert figures["rows"] == SENTENCES
    for axis in ("valence", "arousal"):
        assert -1 <= figures["test"][axis]["ccc"] <= figures["test"][axis]["pearson"] <= 1


def test_every_utterance_is_scored(road):
    scores = json.loads(road.scores.read_text(encoding="utf-8"))
    assert {split: list(entries) for split, entries in scores.items()} == {
        split: [name for ids in videos.values() for name in ids]
        for split, videos in road.kept.items()
    }
    corpus = read_authors_text(road.data, va_file=road.scores)
    spread = corpus.train.coordinates("text").std(0)
    assert bool((spread > 1e-3).all())  # scores depend on the text


def test_run_used_every_term_of_the_objective(road):
    log = [json.loads(line) for line in (road.run / "log.jsonl").read_text().splitlines()]
    steps = [record for record in log if record["event"] == "step"]
    epochs = [record for record in log if record["event"] == "epoch"]
    assert [record["epoch"] for record in epochs] == [1, 2]
    utterances = sum(len(ids) for ids in road.kept["train"].values())
    for epoch in (1, 2):
        assert sum(s["utterances"] for s in steps if s["epoch"] == epoch) == utterances
    config = json.loads((road.run / "config.json").read_text())
    alpha, weight = config["loss"]["alpha"], config["loss"]["text_weight"]
    assert 0 < alpha < 1
    for step in steps:
        # DESIGN 1.3 with one modality.
        expected = (1 - alpha) * (step["classification"] + step["prior"]) + (
            alpha * weight * step["contrastive_text"] / 3
        )
        assert step["loss"] == pytest.approx(expected, rel=1e-4)
    assert any(step["contrastive_text"] > 0 for step in steps)
    assert all(step["prior"] != 0 for step in steps)


def test_encoder_was_fine_tuned(road):
    with (
        safe_open(road.encoder / "model.safetensors", "pt") as before,
        safe_open(road.run / "checkpoints" / "best" / "model.safetensors", "pt") as after,
    ):
        names = [name for name in before.keys() if "layer.0.output.dense.weight" in name]  # noqa: SIM118
        assert len(names) == 1
        tuned = [name for name in after.keys() if name.endswith(names[0])]  # noqa: SIM118
        assert len(tuned) == 1
        change = (after.get_tensor(tuned[0]) - before.get_tensor(names[0])).abs().max()
    assert 1e-6 < float(change) < 0.1


def test_epoch_and_thresholds_were_chosen_on_validation(road):
    log = [json.loads(line) for line in (road.run / "log.jsonl").read_text().splitlines()]
    epochs = [record for record in log if record["event"] == "epoch"]
    metrics = json.loads((road.run / "metrics.json").read_text())
    best = max(epochs, key=lambda record: record["valid"]["micro_f1"])
    assert metrics["best_epoch"] == best["epoch"]
    assert metrics["thresholds"] == best["thresholds"]
    assert metrics["valid"] == best["valid"]


def test_test_figures_follow_from_predictions_and_thresholds(road):
    metrics = json.loads((road.run / "metrics.json").read_text())
    lines = (road.run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    said = [json.loads(line) for line in lines]
    corpus = read_authors_text(road.data)
    assert [line["id"] for line in said] == [item.id for item in corpus.test.utterances]
    probabilities = torch.tensor([line["probabilities"] for line in said])  # [N, L]
    thresholds = torch.tensor([metrics["thresholds"][name] for name in corpus.label_names])
    figures = compute_metrics(
        decide(probabilities, thresholds), corpus.test.labels, corpus.label_names
    ).to_dict()
    assert figures == metrics["test"]
    assert json.loads(road.metrics.read_text())["test"] == metrics["test"]


def test_utterance_without_score_stops_training(road, tmp_path, capsys):
    scores = json.loads(road.scores.read_text(encoding="utf-8"))
    name = next(iter(scores["valid"]))
    del scores["valid"][name]
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(scores))
    command = (
        f"train mosei-text --data {road.data} --va-file {path} --text-encoder {road.encoder} "
        f"--run-folder {tmp_path / 'run'} --device cpu --no-progress"
    )
    assert main(command.split()) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith(f"univa: error: {path}: utterance {name!r} of split 'valid' has no")
    assert "score-text" in message
    assert not (tmp_path / "run").exists()
