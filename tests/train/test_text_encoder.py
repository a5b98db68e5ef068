"""Runs whose text goes through a pretrained encoder; here a random one over invented dialogues."""

import csv
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertModel

from tests.train.test_distributed import run_ranks
from tests.train.tiny import assert_same_run, one_thread, write_encoder
from univa.cli import main
from univa.config import TrainConfig
from univa.data import MOSEI_LABELS
from univa.errors import UserError
from univa.presets import mosei_text
from univa.runs.log import RunLog
from univa.train import train
from univa.utils.processes import Interrupted

SPLITS = {"train": 12, "valid": 3, "test": 3}
WORDS = [*MOSEI_LABELS, "day", "we", "went", "there"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dialogues of four utterances in the authors' layout; the label is a word of the text."""
    folder = tmp_path_factory.mktemp("layout")
    (folder / "preprocess_data").mkdir()
    draw = torch.Generator().manual_seed(2)
    structure: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    scores: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    with open(folder / "final_multi_labels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video_id", "clip_id", "mode", "text", *MOSEI_LABELS])
        for split, number in SPLITS.items():
            for video in (f"{split}{i}" for i in range(number)):
                for clip in range(4):
                    label = int(torch.randint(6, (), generator=draw))
                    text = f"we went there day {MOSEI_LABELS[label]}"
                    values = [float(i == label) for i in range(6)]
                    writer.writerow([video, clip, split, text, *values])
                    name = f"{video}_{clip}"
                    structure[split].setdefault(video, []).append(name)
                    pair = torch.randn(2, generator=draw).tolist()
                    scores[split][name] = [text, *map(str, pair)]
    (folder / "preprocess_data" / "videos_structure.json").write_text(json.dumps(structure))
    (folder / "preprocess_data" / "raw_utt_text_textVA.json").write_text(json.dumps(scores))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that AutoModel and AutoTokenizer load, with dropout."""
    return write_encoder(tmp_path_factory.mktemp("encoder"), WORDS)


def small(layout: Path, encoder: Path, run: Path, **model) -> TrainConfig:
    """The preset mosei-text on that."""
    config = mosei_text()
    sizes = {"hidden_size": 16, "num_heads": 2, "feedforward_size": 16}
    return replace(
        config,
        model=replace(config.model, text_encoder=str(encoder), **(sizes | model)),
        data=replace(config.data, folder=str(layout), batch_size=12, max_tokens=40),
        epochs=2,
        device="cpu",
        progress=False,
        run_folder=str(run),
    )


@pytest.fixture(scope="module")
def undisturbed(layout: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    with one_thread():
        train(small(layout, encoder, run))
    return run


def test_resumes_and_evaluates_without_the_encoders_folder(
    layout, encoder, undisturbed, tmp_path, monkeypatch, capsys
):
    write = RunLog.write

    def signalling(self, **record):
        write(self, **record)
        if record["step"] == 6:  # in the second epoch
            os.kill(os.getpid(), signal.SIGTERM)

    elsewhere = Path(shutil.copytree(encoder, tmp_path / "encoder"))
    run = tmp_path / "run"
    monkeypatch.setattr(RunLog, "write", signalling)
    with pytest.raises(Interrupted):
        train(small(layout, elsewhere, run))
    monkeypatch.setattr(RunLog, "write", write)
    shutil.rmtree(elsewhere)
    assert main(["train", "--resume", str(run)]) == 0
    assert_same_run(run, undisturbed)
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    micro = json.loads((undisturbed / "metrics.json").read_text())["test"]["micro_f1"]
    assert f" {100 * micro:.1f} " in capsys.readouterr().out


def test_two_processes(layout, encoder, tmp_path):
    config = small(layout, encoder, tmp_path / "run")
    assert run_ranks(config, tmp_path / "records") == [0, 0]
    ours, theirs = (load_file(tmp_path / "records" / f"weights{r}.safetensors") for r in (0, 1))
    initial = load_file(tmp_path / "records" / "initial0.safetensors")
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    moved = [name for name in ours if not torch.equal(ours[name], initial[name])]
    assert any("layer" in name and "text" in name for name in moved)  # inside the encoder


def test_frozen_encoder_does_not_move(layout, encoder, tmp_path):
    train(small(layout, encoder, tmp_path / "run", freeze_text_encoder=True))
    last = load_file(tmp_path / "run" / "checkpoints" / "last" / "model.safetensors")
    before = dict(BertModel.from_pretrained(encoder).named_parameters())
    name = "encoder.layer.0.attention.self.query.weight"
    (kept,) = [tensor for key, tensor in last.items() if key.endswith(name)]
    assert torch.equal(kept, before[name])


def test_rows_longer_than_the_encoder_takes(layout, encoder, tmp_path):
    config = small(layout, encoder, tmp_path / "run")
    config = replace(config, data=replace(config.data, max_tokens=512))
    with pytest.raises(UserError, match=r"takes 40 tokens at most; give --data.max-tokens 40"):
        train(config)
    assert not (tmp_path / "run").exists()


def test_encoder_without_a_tokenizer(layout, encoder, tmp_path):
    bare = Path(shutil.copytree(encoder, tmp_path / "bare"))
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(UserError, match=r"bare: no usable tokenizer") as refused:
        train(small(layout, bare, tmp_path / "run"))
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_scores_are_needed_for_the_contrastive_loss_only(layout, encoder, tmp_path):
    folder = Path(shutil.copytree(layout, tmp_path / "layout"))
    (folder / "preprocess_data" / "raw_utt_text_textVA.json").unlink()
    config = small(folder, encoder, tmp_path / "run")
    with pytest.raises(UserError, match=r"raw_utt_text_textVA\.json"):
        train(config)
    assert not (tmp_path / "run").exists()
    train(replace(config, loss=replace(config.loss, alpha=0.0), epochs=1))
    first = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert "contrastive_text" not in first
