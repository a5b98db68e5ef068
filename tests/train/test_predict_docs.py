"""The commands and the code of docs/predict.md, run."""

import contextlib
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from tests.train.test_predict import write_lines
from tests.train.tiny import options, tiny
from univa.cli import main
from univa.data.build import load_corpus

DOCS = Path(__file__).parents[2] / "docs" / "predict.md"
COMMANDS = re.findall(r"^    (univa .+)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)


def python_code() -> str:
    return re.findall(r"```python\n(.+?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0]


def test_the_commands_run(tmp_path, monkeypatch, capsys):
    assert len(COMMANDS) == 7
    monkeypatch.chdir(tmp_path)
    write_lines(load_corpus(tiny()).test, tmp_path)
    smaller = options(tiny(run_folder=""))[1:]  # the same preset, but seconds instead of a minute
    smaller = [*smaller[: smaller.index("--epochs")], "--device", "cpu"]
    for command in COMMANDS:
        words = shlex.split(command)[1:]
        assert main(words + (smaller if words[0] == "train" else [])) == 0
        out, error = capsys.readouterr()
        if words[-1] == "--json":
            assert set(json.loads(out)) == {"predictions" if words[0] == "predict" else "test"}
        if words[-1] == "--quiet":
            assert error == ""
        if words[-1] == "jsonl":
            assert set(json.loads(out.splitlines()[0])) == {
                *("dialogue", "id", "text", "emotions", "probabilities", "va")
            }
    count = len((tmp_path / "runs" / "first" / "predictions.jsonl").read_text().splitlines())
    assert len((tmp_path / "predictions.jsonl").read_text().splitlines()) == count
    vectors = {"word_vectors": torch.randn(4, 32), "audio": torch.randn(5, 24)}
    with contextlib.redirect_stdout(None):
        exec(python_code(), vectors | {"video": torch.randn(3, 20)})


@pytest.mark.parametrize("k", range(2))
def test_the_examples_are_json(k):
    text = DOCS.read_text(encoding="utf-8")
    example = json.loads(re.findall(r"```json\n(.+?)```", text, re.DOTALL)[k])
    assert example
