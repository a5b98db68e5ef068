"""`univa convert-checkpoint`: a .pth of the authors becomes a model of ours, or is refused."""

import os
import pickle
from pathlib import Path

import pytest
import torch

from tests.parity.test_model import CASES, Case
from univa.cli import main
from univa.models import UniVA


def checkpoint(case: Case, path: Path, wrap=lambda state: state) -> Path:
    torch.save(wrap(case.state), path)
    return path


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"epoch": 3, "model": {"state_dict": state}},
        lambda state: {f"module.{k}": v for k, v in state.items()},
    ],
)
def test_the_model_is_the_authors(golden, name, wrap, tmp_path, capsys):
    case = Case(golden / name, torch.float32)
    path = checkpoint(case, tmp_path / "best.pth", wrap)
    encoder = golden / name / "text_encoder"
    options = ["--text-encoder", str(encoder)] if encoder.is_dir() else []
    output = tmp_path / "model"
    assert main(["convert-checkpoint", str(path), str(output), "--num-heads", "4", *options]) == 0
    assert "text, audio, vision" in capsys.readouterr().out
    model = UniVA.from_pretrained(output)
    # The sizes were read off the tensors.
    for field, value in vars(case.model.config).items():
        if field not in ("labels", "dropout", "text_encoder", "initializer_range", "text_layers"):
            if field in ("text_dim", "max_text_length") and options:
                continue
            assert getattr(model.config, field) == value, field
    assert len(model.config.labels) == case.options["num_multi_labels"]
    for key, tensor in case.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    output = model(**case.modality_inputs())
    chosen = output.logits.softmax(1) > case.options["thres_kl"]
    assert torch.equal(chosen.float(), case.outputs["predictions"])
    loss = case.multilabel(output.logits, output.similarity)
    torch.testing.assert_close(loss, case.outputs["multilabel_plus_prior"], rtol=2e-5, atol=0)


class Evil:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.system, (f"touch {self.victim}",)


def test_refusals(golden, tmp_path, capsys):
    case = Case(golden / "mosei_glove", torch.float32)
    victim = tmp_path / "victim"
    roberta = Case(golden / "mosei_roberta", torch.float32)
    encoder = str(golden / "mosei_roberta" / "text_encoder")
    files = {
        "whole.pth": lambda p: torch.save(case.model, p),
        "evil.pth": lambda p: torch.save({"fc.0.bias": Evil(victim)}, p),
        "evil.pkl": lambda p: p.write_bytes(pickle.dumps(Evil(victim))),
        "broken.pth": lambda p: p.write_bytes(b"not a checkpoint"),
        "empty.pth": lambda p: torch.save({}, p),
        "number.pth": lambda p: torch.save({"fc.0.bias": 3}, p),
        "other.pth": lambda p: torch.save({"conv.weight": torch.zeros(2)}, p),
        "part.pth": lambda p: torch.save({"fc.0.bias": torch.zeros(6)}, p),
        "missing.pth": lambda p: torch.save(
            {k: v for k, v in case.state.items() if "vision_linear" not in k}, p
        ),
        "labels.pth": lambda p: torch.save({**case.state, "fc.0.bias": torch.zeros(9)}, p),
        "roberta.pth": lambda p: torch.save(roberta.state, p),
        "good.pth": lambda p: torch.save(case.state, p),
    }
    cases = [
        ("none.pth", [], "no such file"),
        ("whole.pth", [], "it holds more than tensors and plain values"),
        ("evil.pth", [], "it holds more than tensors and plain values"),
        ("evil.pkl", [], "refused: "),
        ("broken.pth", [], "refused: "),
        ("empty.pth", [], "no state dict in it"),
        ("number.pth", [], "'fc.0.bias' is int, not a tensor"),
        ("other.pth", [], "'conv.weight' is not a parameter of the authors' model"),
        ("part.pth", [], "no whole model"),
        ("missing.pth", [], "no whole model"),
        ("labels.pth", [], "a classifier of 9 labels; name them with --labels"),
        ("roberta.pth", [], "give --text-encoder FOLDER"),
        ("good.pth", ["--text-encoder", encoder], "leave --text-encoder out"),
        ("good.pth", ["--num-heads", "5"], "5 do not divide the hidden size 48"),
        ("good.pth", ["--num-heads", "0"], "0 do not divide the hidden size 48"),
    ]
    for name, write in files.items():
        write(tmp_path / name)
    output = tmp_path / "model"
    for name, options, said in cases:
        assert main(["convert-checkpoint", str(tmp_path / name), str(output), *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert said in error, error
        assert not output.exists()
    assert not victim.exists()
    output.mkdir()
    assert main(["convert-checkpoint", str(tmp_path / "good.pth"), str(output)]) == 2
