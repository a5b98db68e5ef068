"""Mistakes that once ended in a traceback or in silence: one line and status 2."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import univa.evaluation.evaluate
import univa.utils.processes
from tests.folders import writable_copy
from tests.train.test_cli import edit_json, refused
from tests.train.tiny import options, tiny
from univa.cli import main
from univa.data import read_authors_text
from univa.errors import UserError
from univa.paper.ablate import TABLES
from univa.presets import mosei_roberta
from univa.utils.processes import choose_device


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.mark.parametrize("option", ["--data", "--va-file"])
def test_files_for_the_synthetic_corpus(option, capsys, tmp_path: Path):
    args = options(tiny(run_folder=str(tmp_path / "run")))
    message = refused(capsys, "train", *args, option, "somewhere")
    assert message.startswith(f"{option}: ")
    assert "--data.source authors-text" in message
    assert not (tmp_path / "run").exists()


UNREAD = [
    ("mosei-glove", ["--va-file", "/none.json"], "the file of each modality has scores of its own"),
    ("mosei-roberta", ["--data.batch-tokens", "5", "--data.sampler", "utterances"], "single utte"),
    ("mosei-glove", ["--data.batch-tokens", "5"], "no text encoder reads the text"),
    ("mosei-glove", ["--data.no-context"], "no text encoder reads the text"),
    ("demo", ["--data.max-tokens", "64"], "no text encoder reads the text"),
    ("demo", ["--model.freeze-text-encoder"], "no text encoder reads the text"),
    ("demo", ["--optimizer.text-encoder-learning-rate", "1"], "no text encoder reads the text"),
    ("demo", ["--data.buckets", "2", "--data.padding", "full"], "--data.padding full makes one"),
    ("mosei-text", ["--data.buckets", "2"], "there are no sequences of features"),
    ("mosei-text", ["--data.synthetic.noise", "0.3"], "the data source is 'authors-text'"),
    ("mosei-text", ["--data.valid-fraction", "0.3"], "'authors-text' has a validation split"),
    ("mosei-text", ["--model.feedforward-size", "64"], "no transformer layer of our own"),
    ("mosei-text", ["--model.num-heads", "6"], "no transformer layer of our own"),
    ("mosi-trimodal", ["--model.layer-norm-eps", "1e-5"], "no transformer layer of our own"),
    ("mosei-text", ["--model.audio-layers", "2"], "audio is none of --model.modalities"),
    ("mosei-text", ["--loss.vision-weight", "2"], "vision is none of --model.modalities"),
    ("mosei-roberta", ["--model.text-dim", "100"], "a text encoder reads the text"),
    ("mosei-roberta", ["--model.max-text-length", "9"], "a text encoder reads the text"),
    (
        "mosei-text",
        ["--optimizer.text-encoder-learning-rate", "1e-3", "--model.freeze-text-encoder"],
        "the text encoder is frozen",
    ),
    (
        "mosei-roberta",
        ["--text-encoder", "roberta", "--model.modalities", "audio"],
        "text is none of --model.modalities",
    ),
    (
        "mosi-trimodal",
        ["--va-file", "/none.json", "--model.modalities", "audio", "vision"],
        "it has scores of text",
    ),
    ("demo", ["--loss.no-positives", "zero"], "is a positive of every utterance"),
    ("demo", ["--threshold.value", "0.3"], "the threshold is searched (shared)"),
    ("mosei-glove", ["--threshold.objective", "macro_f1"], "--threshold.search is fixed"),
]


@pytest.mark.parametrize(("preset", "given", "why"), UNREAD)
def test_options_that_would_do_nothing(preset, given, why, capsys, tmp_path: Path):
    run = tmp_path / "run"
    where = [] if preset == "demo" else ["--data", str(tmp_path)]
    said = refused(capsys, "train", preset, *where, "--run-folder", str(run), *given)
    assert said.startswith(given[0]), said
    assert " would not be read, " in said
    assert why in said
    assert said.endswith(f"; drop {given[0]}")
    assert not run.exists()
    # The same for every run of an ablation.
    assert refused(capsys, "ablate", preset, *where, *given) == said


def test_another_folder_for_a_run_that_goes_on(copied: Path, tmp_path: Path, capsys):
    other = tmp_path / "other"
    args = ["train", "--resume", str(copied), "--run-folder", str(other), "--no-progress"]
    said = refused(capsys, *args)
    assert said.startswith(f"--run-folder: {other} would not be read, the run goes on in {copied};")
    assert not other.exists()
    assert main(["train", "--resume", str(copied), "--run-folder", str(copied)]) == 0


def test_an_ablation_drops_the_options_of_text_with_the_text():
    config = mosei_roberta()
    data = replace(config.data, va_file="x", batch_tokens=900, context=False)
    row = TABLES[3]["w/o Text, Vision"](replace(config, data=data))
    assert row.model.modalities == ("audio",)
    assert row.data == config.data


@pytest.mark.parametrize("value", ["inf", "nan"])
@pytest.mark.parametrize(
    "option",
    [
        *("loss.temperature", "loss.radius", "loss.alpha", "loss.text-weight", "loss.audio-weight"),
        *("loss.vision-weight", "loss.self-weight", "optimizer.learning-rate", "optimizer.eps"),
        *("optimizer.text-encoder-learning-rate", "optimizer.weight-decay", "optimizer.beta1"),
        *("optimizer.beta2", "optimizer.clip-norm", "optimizer.warmup-fraction"),
        *("threshold.value", "data.synthetic.noise", "data.synthetic.discordance"),
    ],
)
def test_numbers_are_finite(option, value, capsys, tmp_path: Path):
    args = options(tiny(run_folder=str(tmp_path / "run")))
    message = refused(capsys, "train", *args, f"--{option}", value)
    assert message.startswith(f"--{option}: {value} is not allowed; it must be ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("parent", ["file", "link"])
def test_run_folder_that_cannot_be_made(parent, capsys, tmp_path: Path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "link")  # refuses root, too
    run = tmp_path / parent / "run"
    message = refused(capsys, "train", *options(tiny(run_folder=str(run))))
    assert message.startswith(f"{run}: cannot make this folder: ")
    assert "--run-folder" in message


def test_log_that_is_a_folder(capsys, copied: Path):
    (copied / "log.jsonl").unlink()
    (copied / "log.jsonl").mkdir()
    message = refused(capsys, "train", "--resume", str(copied), "--no-progress")
    assert message.startswith(f"{copied / 'log.jsonl'}: cannot write the log: ")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"thresholds": None}, "thresholds"),
        ({"thresholds": {"happy": 0.5}}, "thresholds"),
        ({"thresholds": "high"}, "thresholds"),
        ({"epoch": "a"}, "epoch"),
    ],
)
def test_best_checkpoint_without_its_decision(change, said, capsys, copied: Path):
    edit_json(copied / "checkpoints" / "best" / "meta.json", change)
    for args in (["evaluate"], ["train", "--no-progress", "--resume"]):
        message = refused(capsys, *args, str(copied))
        assert "best/meta.json: not a readable checkpoint description" in message
        assert said in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epoch", value) for value in ("a", 99, -1, 1.5, True, None)),
        *(("batch", -1), ("step", "a"), ("step", 10**6), ("total_steps", 0)),
        *(("best_epoch", 4), ("best_micro_f1", "high"), ("log_bytes", -1)),
    ],
)
def test_progress_that_cannot_be(name, value, capsys, copied: Path):
    meta = copied / "checkpoints" / "last" / "meta.json"
    progress = json.loads(meta.read_text())["progress"]
    edit_json(meta, {"progress": progress | {name: value}})
    message = refused(capsys, "train", "--resume", str(copied), "--no-progress")
    assert "last/meta.json: not a readable checkpoint description" in message
    assert f"progress.{name} is {value!r}" in message


@pytest.mark.parametrize(
    "state", [[], {}, {"optimizer": {}, "scheduler": {}}, {"random": 3}, {"random": [3]}]
)
def test_training_state_of_another_shape(state, capsys, copied: Path):
    path = copied / "checkpoints" / "last" / "training_state.pt"
    torch.save(state, path)
    message = refused(capsys, "train", "--resume", str(copied), "--no-progress")
    assert message.startswith(f"{path}: not ")


def test_training_state_is_refused_without_dangerous_advice(capsys, copied: Path):
    path = copied / "checkpoints" / "last" / "training_state.pt"
    torch.save(Path("x"), path)
    message = refused(capsys, "train", "--resume", str(copied), "--no-progress")
    assert message.startswith(f"{path}: not a readable training state (")
    assert "weights" not in message.lower()
    assert "can still be loaded" not in message
    assert "start the run anew" in message


def test_state_of_two_processes_tells_the_whole_command(capsys, copied: Path):
    path = copied / "checkpoints" / "last" / "training_state.pt"
    state = torch.load(path, weights_only=True)
    torch.save(state | {"random": state["random"] * 2}, path)
    message = refused(capsys, "train", "--resume", str(copied), "--no-progress")
    command = f"torchrun --nproc-per-node 2 -m univa.train --resume {copied}"
    assert message.endswith(f"go on with: {command}")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("data", "source", "foo"),
        ("data", "context", "yes"),
        ("loss", "classification", "hinge"),
        ("loss", "prior", "foo"),
        ("loss", "no_positives", 3),
        ("loss", "normalize", 1),
        ("threshold", "search", "foo"),
        ("threshold", "objective", None),
        (None, "precision", "float16"),
        (None, "device", "tpu"),
        (None, "epochs", 1.5),
        (None, "progress", "no"),
        (None, "preset", 3),
    ],
)
def test_edited_config(section, name, value, capsys, copied: Path):
    path = copied / "config.json"
    content = json.loads(path.read_text())
    (content if section is None else content[section])[name] = value
    path.write_text(json.dumps(content))
    message = refused(capsys, "evaluate", str(copied))
    option = f"--{name if section is None else f'{section}.{name}'}".replace("_", "-")
    assert message.startswith(f"{path}: {option}: {value!r} is not allowed; it must be ")


def test_output_is_tried_before_the_work(finished: Path, tmp_path: Path, capsys, monkeypatch):
    def fail(*_args, **_options):
        raise AssertionError("computed first")

    monkeypatch.setattr(univa.evaluation.evaluate, "evaluate_best", fail)
    (tmp_path / "file").write_text("")
    for output in (tmp_path, tmp_path / "file" / "x.json"):
        refused(capsys, "evaluate", str(finished), "--output", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_error_of_another_rank_is_told(capsys, tmp_path: Path, monkeypatch):
    """Data that cannot be read or a GPU that is not there may be one process's own trouble."""

    def fail(_config):
        raise UserError("this machine has no disk")

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("univa.train.train", fail)
    assert main(["train", *options(tiny(run_folder=str(tmp_path / "run")))]) == 2
    assert capsys.readouterr().err == "univa: rank 1: error: this machine has no disk\n"


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for index in (0, 1):  # every process refuses, none waits for the others
        with pytest.raises(UserError, match=r"2 processes .* 1 CUDA device"):
            choose_device("auto", index)
    assert choose_device("cpu", 1) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert choose_device("auto") == torch.device("cuda", 0)


def test_scores_can_be_passed_over(golden: Path, tmp_path: Path):
    folder = writable_copy(golden / "official_layout" / "MOSEI", tmp_path / "MOSEI")
    (folder / "preprocess_data" / "raw_utt_text_textVA.json").write_text("{")
    with pytest.raises(UserError, match=r"raw_utt_text_textVA\.json"):
        read_authors_text(folder)
    corpus = read_authors_text(folder, scores=False)
    assert corpus.coordinate_modalities == ()
