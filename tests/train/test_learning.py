"""The loop learns, its best epoch is validation's, and `univa evaluate` tells the same."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import univa.train
from tests.train.tiny import read_log, tiny
from univa.cli import main
from univa.data.build import load_corpus
from univa.errors import UserError
from univa.metrics import compute_metrics
from univa.train import train
from univa.train.optim import make_optimizer
from univa.utils.processes import ProcessGroup, cpu_threads


def learning(**changes):
    config = tiny(**changes)
    corpus = replace(
        config.data.synthetic, train_dialogues=60, valid_dialogues=10, test_dialogues=20
    )
    return replace(
        config,
        model=replace(config.model, hidden_size=32, feedforward_size=64),
        data=replace(config.data, batch_size=32, synthetic=corpus),
        optimizer=replace(config.optimizer, learning_rate=3e-3),
        epochs=8,
    )


def test_it_learns(tmp_path: Path):
    config = learning(run_folder=str(tmp_path / "run"))
    result = train(config)
    assert result is not None
    steps = [record for record in read_log(tmp_path / "run") if record["event"] == "step"]
    first, last = steps[:5], steps[-5:]
    for name in ("loss", "classification"):
        assert sum(s[name] for s in last) < 0.7 * sum(s[name] for s in first), name

    corpus = load_corpus(config)
    constant = max(
        compute_metrics(
            torch.tensor(answer).expand_as(corpus.test.labels),
            corpus.test.labels,
            corpus.label_names,
        ).micro_f1
        for answer in itertools.product((0, 1), repeat=len(corpus.label_names))
    )
    assert result["test"]["micro_f1"] > constant + 0.15


def test_log_has_every_step_and_term(finished: Path):
    log = read_log(finished)
    steps = [record for record in log if record["event"] == "step"]
    epochs = [record for record in log if record["event"] == "epoch"]
    assert [record["step"] for record in steps] == list(range(1, len(steps) + 1))
    assert [record["epoch"] for record in epochs] == [1, 2, 3]
    assert [r["event"] for r in log].count("step") + 3 == len(log)
    config = tiny()
    for record in steps:
        terms = {name for name in record if name.startswith("contrastive_")}
        assert terms == {"contrastive_text", "contrastive_audio", "contrastive_vision"}
        weights = config.loss.modality_weights
        contrastive = sum(weights[name] / 3 * record[f"contrastive_{name}"] for name in weights)
        alpha = config.loss.alpha
        expected = (1 - alpha) * (record["classification"] + record["prior"]) + alpha * contrastive
        assert record["loss"] == pytest.approx(expected, rel=1e-5)
        assert record["grad_norm"] > 0
    raw = json.loads((finished / "log.jsonl").read_text().splitlines()[0])
    assert raw["seconds"] > 0


def test_learning_rate_rises_then_falls(finished: Path):
    rates = [r["learning_rate"] for r in read_log(finished) if r["event"] == "step"]
    total, peak = len(rates), tiny().optimizer.learning_rate
    warmup = round(0.1 * total)
    assert warmup > 0
    expected = [
        peak * (i / warmup if i < warmup else (total - i) / (total - warmup)) for i in range(total)
    ]
    assert rates == pytest.approx(expected)


def test_best_epoch_is_by_validation_micro_f1(finished: Path):
    epochs = [record for record in read_log(finished) if record["event"] == "epoch"]
    best = max(epochs, key=lambda record: record["valid"]["micro_f1"])
    metrics = json.loads((finished / "metrics.json").read_text())
    meta = json.loads((finished / "checkpoints" / "best" / "meta.json").read_text())
    assert metrics["best_epoch"] == meta["epoch"] == best["epoch"]
    assert metrics["valid"] == meta["valid"] == best["valid"]
    assert metrics["thresholds"] == meta["thresholds"] == best["thresholds"]


@pytest.mark.parametrize("split", ["test", "valid"])
def test_evaluate_prints_and_writes_the_runs_own_numbers(split, finished, tmp_path, capsys):
    before = sorted(path for path in finished.rglob("*"))
    output = tmp_path / "out.json"
    args = ["--split", split, "--output", str(output), "--report", str(tmp_path / "report")]
    assert main(["evaluate", str(finished), *args]) == 0
    metrics = json.loads((finished / "metrics.json").read_text())
    assert json.loads(output.read_text()) == {split: metrics[split]}
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:5] == ["split", "Acc", "HL", "miF1", "maF1"]
    assert shown[1].split()[0] == split
    assert shown[1].split()[3] == f"{100 * metrics[split]['micro_f1']:.1f}"
    assert sorted(path for path in finished.rglob("*")) == before


def test_predictions_give_the_test_metrics(finished: Path):
    rows = [json.loads(x) for x in (finished / "predictions.jsonl").read_text().splitlines()]
    config = tiny()
    corpus = load_corpus(config)
    assert [row["id"] for row in rows] == [item.id for item in corpus.test.utterances]
    metrics = compute_metrics(
        torch.tensor([row["predictions"] for row in rows]),
        torch.tensor([row["labels"] for row in rows]),
        corpus.label_names,
    )
    stored = json.loads((finished / "metrics.json").read_text())
    assert metrics.to_dict() == stored["test"]
    thresholds = torch.tensor(list(stored["thresholds"].values()))
    probabilities = torch.tensor([row["probabilities"] for row in rows])
    assert ((probabilities > thresholds).int().tolist()) == [r["predictions"] for r in rows]
    assert torch.allclose(probabilities.sum(1), torch.ones(len(rows)))  # KL: a softmax


def test_sigmoids_no_prior_no_contrast_bfloat16(tmp_path: Path):
    config = tiny(run_folder=str(tmp_path / "run"), epochs=1, precision="bfloat16")
    config = replace(
        config,
        model=replace(config.model, prior=False, modalities=("audio",)),
        loss=replace(config.loss, classification="bce", prior=None, alpha=0.0),
        optimizer=replace(config.optimizer, clip_norm=0.0),
    )
    result = train(config)
    assert result is not None
    rows = (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()
    sums = [sum(json.loads(row)["probabilities"]) for row in rows]
    assert any(abs(total - 1) > 0.1 for total in sums)


def test_training_moves_every_parameter(tmp_path: Path, monkeypatch):
    initial = {}

    def watched(config, model, steps):
        initial.update({name: value.clone() for name, value in model.state_dict().items()})
        return make_optimizer(config, model, steps)

    monkeypatch.setattr(univa.train.setup, "make_optimizer", watched)
    run = tmp_path / "run"
    train(tiny(run_folder=str(run), epochs=1))
    last = load_file(run / "checkpoints" / "last" / "model.safetensors")
    assert initial.keys() == last.keys()
    assert [name for name, value in initial.items() if torch.equal(value, last[name])] == []


def _hopeless(**changes):
    config = tiny(save_every=1, **changes)
    return replace(config, optimizer=replace(config.optimizer, learning_rate=1e30))


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path, capsys):
    run = tmp_path / "run"
    with pytest.raises(UserError, match=r"^step \d+ \(epoch 1, utterances train-") as stopped:
        train(_hopeless(run_folder=str(run)))
    assert "--optimizer.learning-rate" in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not (run / "metrics.json").exists()


def test_text_encoder_has_its_own_learning_rate():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = torch.nn.Linear(2, 2)
            self.frozen = torch.nn.Linear(2, 2).requires_grad_(False)
            self.head = torch.nn.Linear(2, 2)

        def text_encoder_parameters(self):
            return list(self.encoder.parameters())

    config = tiny()
    config = replace(config, optimizer=replace(config.optimizer, text_encoder_learning_rate=1e-5))
    model = Model()
    optimizer, scheduler = make_optimizer(config, model, 10)  # type: ignore[arg-type]
    own, encoder = optimizer.param_groups
    assert own["params"] == list(model.head.parameters())
    assert encoder["params"] == list(model.encoder.parameters())
    optimizer.step()
    scheduler.step()  # the end of a warm-up of one step
    assert (own["lr"], encoder["lr"]) == (config.optimizer.learning_rate, 1e-5)


def test_one_process_needs_no_group():
    group = ProcessGroup.start("cpu")
    values, flag = group.mean(torch.tensor([1.0, 2.0]), False)
    assert (group.is_main, values, flag, group.gather("a")) == (True, [1.0, 2.0], False, ["a"])


def test_threads_are_the_configs_inside_only():
    before = torch.get_num_threads()
    with cpu_threads(2):
        assert torch.get_num_threads() == 2
        with cpu_threads(0):
            assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
