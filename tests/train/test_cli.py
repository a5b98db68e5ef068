"""Exit codes, and one line for each mistake."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.folders import writable_copy
from tests.train.tiny import options, tiny
from univa import __version__
from univa.cli import main

ROOT = Path(__file__).parents[2]


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run the command; it must fail with one line on stderr and nothing on stdout."""
    assert main(list(args)) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("univa: error: ")
    assert error.count("\n") == 1
    return error.removeprefix("univa: error: ").rstrip("\n")


def test_help_without_torch():
    code = "import sys, univa.cli as c; c.main(['--help']); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for command in ("train", "evaluate", "va fit-text", "va score-text"):
        assert f"  {command} " in result.stdout


def test_python_m_univa_and_console_script():
    command = [sys.executable, "-m", "univa", "--version"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"univa {__version__}\n")


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["va"], ["data", "--help"]])
def test_usage(args, capsys):
    assert main(args) == 0
    assert "usage: univa COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train", "mosei-text"),
        ("train demo", "--loss.temperature"),
        ("evaluate", "--split"),
        ("convert-checkpoint", "--num-heads"),
        ("convert-checkpoint", "FILE.pth FOLDER"),
        ("data convert", "--dtype"),
        ("data import-table", "--audio-features"),
        ("data import-csd", "--non-finite"),
        ("data import-m3ed", "--splits"),
        ("data check", "--json"),
        ("data verify", "STORE"),
        ("va fit-text", "--encoder"),
        ("va score-text", "--scorer"),
    ],
)
def test_help_of_commands(command, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert f"usage: univa {command} " in out
    assert option in out


@pytest.mark.parametrize("args", [["fly"], ["va", "fly"], ["trains", "demo"]])
def test_unknown_command(args, capsys):
    message = refused(capsys, *args)
    given = " ".join(args[:2]) if args[0] == "va" else args[0]
    start = f"no command {given!r}; commands: train, evaluate, predict, ablate, figures, report, "
    assert message.startswith(start)
    for command in ("data convert", "data import-table", "data check", "va fit-text"):
        assert f", {command}, " in message


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["train"], "demo"),
        (["train", "demo", "--tau", "3"], "--tau"),
        (["train", "demo", "--epochs", "many"], "many"),
        (["train", "demo", "--model.num-heads", "7"], "Error parsing model: hidden_size must be"),
        (["train", "--resume"], "--resume"),
        (["evaluate"], "RUN"),
        (["evaluate", "x", "--split", "dev"], "dev"),
    ],
)
def test_wrong_option_is_tyros_message(args, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error


@pytest.mark.parametrize("args", [["mosei-rob", "--data", "X"], ["fly"], [""]])
def test_unknown_preset(args, capsys):
    assert refused(capsys, "train", *args) == (
        f"no preset {args[0]!r}; presets: demo, mosei-text, mosi-trimodal, own, mosei-roberta, "
        "mosei-glove, m3ed-roberta, m3ed-glove"
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--loss.alpha", "2"], "--loss.alpha: 2.0 is not allowed; it must be in [0, 1]"),
        (["--loss.prior", "None"], "needs both --loss.prior None and --model.no-prior"),
        (["--model.labels", "happy", "sad"], "--model.labels is happy sad but"),
        (["--model.audio-dim", "25"], "give --model.audio-dim 24"),
        (["--data.source", "authors-text"], "--text-encoder FOLDER"),
        (["--device", "cuda"], "give --device cpu"),
    ],
)
def test_mistakes_in_options_leave_nothing_behind(changes, said, capsys, tmp_path):
    if "cuda" in changes and torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    run = tmp_path / "run"
    args = options(tiny(run_folder=str(run)))
    assert said in refused(capsys, "train", *args, *changes)
    assert not run.exists()


def test_mosei_text_needs_a_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert refused(capsys, "train", "mosei-text").startswith("no data: give --data FOLDER")
    assert "nowhere" in refused(capsys, "train", "mosei-text", "--data", "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_authors_layout_mistakes(capsys, tmp_path, golden: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data"
    writable_copy(golden / "official_layout" / "MOSEI", folder)
    scores = folder / "preprocess_data" / "raw_utt_text_textVA.json"
    train = ["train", "mosei-text", "--data", str(folder)]
    message = refused(capsys, *train, "--model.labels", "happy", "joy", "--model.no-prior")
    assert "--loss.prior None" in message
    message = refused(capsys, *train, "--model.labels", "happy", "joy")
    assert "final_multi_labels.csv" in message
    assert "joy" in message
    scores.unlink()
    assert "raw_utt_text_textVA.json" in refused(capsys, *train)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_text_encoder_that_is_not_there(capsys, tmp_path, golden: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    folder = golden / "official_layout" / "MOSEI"
    args = ["--data", str(folder), "--text-encoder", str(tmp_path / "nowhere")]
    assert "nowhere" in refused(capsys, "train", "mosei-text", *args)
    assert list(tmp_path.iterdir()) == []


def test_run_folder_in_use(capsys, finished: Path, tmp_path: Path):
    args = options(tiny(run_folder=str(finished)))
    message = refused(capsys, "train", *args)
    assert f"univa train --resume {finished}" in message
    (tmp_path / "file").write_text("")
    message = refused(capsys, "train", *options(tiny(run_folder=str(tmp_path / "file"))))
    assert "not an empty folder" in message


def test_default_run_folders_do_not_collide(tmp_path: Path, monkeypatch):
    from univa.runs.log import find_run

    monkeypatch.chdir(tmp_path)
    first, _ = find_run(tiny())
    assert first.parts[0] == "runs"
    assert first.name.startswith("demo-2")
    for _ in range(3):
        run, _ = find_run(tiny())
        assert not run.exists()
        run.mkdir(parents=True)


def test_resume_with_another_config(capsys, finished: Path):
    said = "config.json: the run has another config than the options say ("
    message = refused(capsys, "train", "--resume", str(finished), "--loss.alpha", "0.3")
    assert f"{said}loss.alpha is 0.2, not 0.3); drop these options" in message
    message = refused(capsys, "train", "mosei-text", "--resume", str(finished))
    assert said in message


def test_resume_what_is_no_run(capsys, tmp_path: Path):
    message = refused(capsys, "train", "--resume", str(tmp_path))
    assert "config.json: no such file" in message
    assert "is not the folder of a training run" in message
    assert "config.json: no such file" in refused(capsys, "evaluate", str(tmp_path))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def edit_json(path: Path, change: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_checkpoint_of_another_config(capsys, copied: Path):
    edit_json(copied / "config.json", {"seed": 4})
    for args in (["train", "--resume", str(copied)], ["evaluate", str(copied)]):
        message = refused(capsys, *args)
        assert "meta.json: this checkpoint is of another config than its run (seed is" in message
        assert "(seed is 1111, not 4 as in config.json)" in message


def test_data_that_changed_since(capsys, copied: Path):
    meta = copied / "checkpoints" / "last" / "meta.json"
    progress = json.loads(meta.read_text())["progress"]
    edit_json(meta, {"progress": progress | {"total_steps": 999}})
    message = refused(capsys, "train", "--resume", str(copied))
    assert "the run has 999 steps but its data now gives" in message


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"progress": {"speed": 1}}'])
def test_broken_meta(content, capsys, copied: Path):
    (copied / "checkpoints" / "last" / "meta.json").write_text(content)
    message = refused(capsys, "train", "--resume", str(copied))
    assert "meta.json: not a readable checkpoint description" in message


def test_broken_training_state(capsys, copied: Path):
    state = copied / "checkpoints" / "last" / "training_state.pt"
    content = state.read_bytes()
    for broken in (b"", content[: len(content) // 2], b"junk"):
        state.write_bytes(broken)
        message = refused(capsys, "train", "--resume", str(copied))
        assert "training_state.pt: not a readable training state" in message
    torch.save({"optimizer": {}, "scheduler": {}, "random": [{}]}, state)
    message = refused(capsys, "train", "--resume", str(copied))
    assert "training_state.pt: not the state of this model" in message
    state.unlink()
    message = refused(capsys, "train", "--resume", str(copied))
    assert "no training state here" in message


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_training_state_is_not_unpickled(capsys, copied: Path, tmp_path: Path):
    state = copied / "checkpoints" / "last" / "training_state.pt"
    sprung = tmp_path / "sprung"
    for write in (torch.save, lambda item, path: path.write_bytes(pickle.dumps(item))):
        write(Trap(sprung), state)
        message = refused(capsys, "train", "--resume", str(copied))
        assert "training_state.pt: not a readable training state" in message
    assert not sprung.exists()


def test_model_of_another_size(capsys, copied: Path):
    for checkpoint, args in (("last", ["train", "--resume"]), ("best", ["evaluate"])):
        edit_json(copied / "checkpoints" / checkpoint / "config.json", {"hidden_size": 32})
        message = refused(capsys, *args, str(copied))
        assert f"{checkpoint}/model.safetensors" in message
        assert "another config" in message


def test_evaluate_without_a_best_checkpoint(capsys, copied: Path):
    shutil.rmtree(copied / "checkpoints" / "best")
    assert "best: no checkpoint here" in refused(capsys, "evaluate", str(copied))


def test_errors_are_told_by_one_rank(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert main(["fly"]) == 2
    assert capsys.readouterr().err == ""
