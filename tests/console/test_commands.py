"""`--json` and `--quiet` of the commands with a result: one document, and nothing else there."""

import importlib
import json
from pathlib import Path

import pytest

from tests.console.test_console import COMMANDS
from tests.train.test_ablate import trained  # noqa: F401
from tests.train.tiny import one_thread, options, tiny
from tests.va.conftest import table, tiny_encoder  # noqa: F401
from tests.va.media_files import picture, vit
from tests.va.test_score import folder  # noqa: F401
from univa.cli import _COMMANDS, main


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def document(capsys, *args: str) -> tuple[dict, str]:
    """What a command writes on standard output with `--json`, and what on standard error."""
    capsys.readouterr()
    assert main([*args, "--json"]) == 0
    out, error = capsys.readouterr()
    assert "\r" not in error
    return json.loads(out), error


def test_train_and_evaluate(tmp_path: Path, capfd):
    run = tmp_path / "run"
    train = ["train", *options(tiny(run_folder=str(run), epochs=1))]
    train.remove("--no-progress")
    metrics, error = document(capfd, *train)
    assert metrics == json.loads((run / "metrics.json").read_text())
    lines = error.splitlines()
    assert lines[0].startswith("epoch 1  valid  Acc ")
    assert any(line.split()[:2] == ["split", "Acc"] for line in lines)
    assert "run folder" in lines[-1]
    assert all(len(line) <= 80 for line in lines[:-1])
    again, error = document(capfd, "evaluate", str(run))
    assert again == {"test": metrics["test"]}
    assert main(["evaluate", str(run), "--json", "--quiet"]) == 0
    out, error = capfd.readouterr()
    assert json.loads(out) == again
    assert error == ""
    assert main(["evaluate", str(run), "--quiet"]) == 0
    out, error = capfd.readouterr()
    assert out.split()[:2] == ["split", "Acc"]
    assert error == ""


def test_ablate(tmp_path: Path, trained, capsys):  # noqa: F811
    args = ["ablate", "demo", "--seeds", "1", "--folder", str(tmp_path / "all")]
    tables, error = document(capsys, *args)
    assert set(tables["test"]) >= {"UniVA", "w/o VA-CL", "w/o Vision"}
    assert tables["test"]["UniVA"]["1"]["micro_f1"] == 0.5
    assert "w/o VA-CL, VA-ECP" in error
    assert all(len(line) <= 80 for line in error.splitlines())
    assert main([*args, "--quiet"]) == 0
    out, error = capsys.readouterr()
    assert "w/o VA-CL, VA-ECP" in out
    assert error == ""


def test_scorers(tiny_encoder, table, folder, tmp_path: Path, capfd):  # noqa: F811
    scorer, scores = tmp_path / "scorer", tmp_path / "va.json"
    fit = ["va", "fit-text", "--data", str(table), "--encoder", str(tiny_encoder)]
    fit += ["--output", str(scorer), "--epochs", "1", "--max-tokens", "16", "--device", "cpu"]
    figures, error = document(capfd, *fit)
    written = json.loads((scorer / "metrics.json").read_text())
    assert figures["test"] == written["test"]
    assert Path(figures["folder"]) == scorer
    assert "epoch 1" in error
    score = ["va", "score-text", "--scorer", str(scorer), "--data", str(folder)]
    result, error = document(capfd, *score, "--output", str(scores))
    assert result == {"file": str(scores), "utterances": 6}
    assert main([*score, "--output", str(scores), "--json", "--quiet"]) == 0
    assert capfd.readouterr().err == ""
    score = ["va", "score", "--modality", "text", "--model", str(scorer), "--manifest", str(folder)]
    result, error = document(capfd, *score, "--output", str(scores))
    assert result == {"file": str(scores), "utterances": 6}
    assert "6 utterances scored into" in error


def test_extraction(tmp_path: Path, capfd):
    picture(tmp_path / "a.png")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("id,split,vision\na,train,a.png\nb,test,a.png\n")
    extract = ["data", "extract-vision", "--manifest", str(manifest), "--output"]
    encoder = ["--encoder", str(vit(tmp_path / "encoder"))]
    result, error = document(capfd, *extract, str(tmp_path / "features"), *encoder)
    output = str(tmp_path / "features")
    assert result == {"folder": output, "utterances": 2, "steps": 2, "size": 16}
    assert "2 utterances, 2 steps of 16 numbers" in error
    assert main([*extract, str(tmp_path / "again"), *encoder, "--json", "--quiet"]) == 0
    assert capfd.readouterr().err == ""


def test_data(golden: Path, tmp_path: Path, capfd):
    layout, store = golden / "official_layout" / "MOSEI", tmp_path / "store"
    converted, error = document(capfd, "data", "convert", str(layout), str(store))
    size = sum(file.stat().st_size for file in store.glob("*.safetensors"))
    assert converted["bytes"] == size > 0
    assert f"{converted['utterances']} utterances" in error
    verified, _ = document(capfd, "data", "verify", str(store))
    assert verified["utterances"] == converted["utterances"]
    assert verified["shards"] == len(list(store.glob("*.safetensors")))


def test_these_are_the_commands_with_a_result():
    tested = {"train", "evaluate", "ablate", "va fit-text", "va score-text", "va score"}
    assert tested | {"data convert", "data verify", "data extract-vision"} <= set(COMMANDS)
    others = 0
    for command, _ in _COMMANDS.values():
        inner = dict(zip(command.__code__.co_freevars, command.__closure__ or (), strict=True))
        if "module" in inner:  # a dataclass: what `run` returns is the document or the status
            module = importlib.import_module(inner["module"].cell_contents)
            kind = getattr(module, inner["name"].cell_contents)
            assert str(kind.run.__annotations__["return"]) in ("dict[str, Any]", "int"), kind
            others += 1
    assert others == len(COMMANDS) - 2  # train and ablate are functions
