"""`--precision` and `--compile` reach the arithmetic."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.tiny import read_log, tiny
from univa.data.build import load_corpus, make_collator, make_normalizer
from univa.data.lexicon import similarity_matrix
from univa.models import UniVA
from univa.train import train
from univa.train.objective import Objective


def first_losses(run: Path) -> dict[str, float]:
    first = read_log(run)[0]
    return {key: value for key, value in first.items() if isinstance(value, float)}


def test_bfloat16_computes_in_bfloat16(tmp_path: Path, monkeypatch):
    dtypes: list[torch.dtype] = []
    forward = UniVA.forward

    def watched(self, **inputs):
        output = forward(self, **inputs)
        dtypes.append(output.logits.dtype)
        return output

    monkeypatch.setattr(UniVA, "forward", watched)
    losses = {}
    for precision in ("float32", "bfloat16"):
        run = tmp_path / precision
        dtypes.clear()
        train(tiny(run_folder=str(run), epochs=1, precision=precision))
        # Training, validation and test.
        assert set(dtypes) == {getattr(torch, precision)}
        losses[precision] = first_losses(run)
    for key, value in losses["float32"].items():
        assert losses["bfloat16"][key] == pytest.approx(value, rel=0.05, abs=0.02), key
    assert losses["bfloat16"]["loss"] != losses["float32"]["loss"]


def test_compile_is_asked_for(tmp_path: Path, monkeypatch):
    asked: list[tuple[type, dict]] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: asked.append((type(self), options))
    )
    train(tiny(run_folder=str(tmp_path / "plain"), epochs=1))
    assert asked == []
    train(tiny(run_folder=str(tmp_path / "compiled"), epochs=1, compile=True))
    assert asked == [(UniVA, {"dynamic": True})]


def test_a_compiled_model_gives_the_same_gradients():
    """Traced as with --compile; the graph then runs op by op, which takes no compiler's minutes."""
    config = tiny()
    config = replace(config, model=replace(config.model, modalities=("audio",), dropout=0.0))
    corpus = load_corpus(config)
    torch.manual_seed(0)
    model = UniVA(config.model, similarity=similarity_matrix(config.model.labels))
    normalizer = make_normalizer(config, corpus.train)
    batch = make_collator(config, corpus.train, model, normalizer=normalizer)([0, 1, 2, 3, 4])
    objective = Objective(config, model)
    gradients = []
    for compiled in (False, True):
        if compiled:
            model.compile(dynamic=True, backend="eager")
        model.zero_grad()
        objective(batch).total.backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for plain, traced in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, traced, rtol=1e-4, atol=1e-6)
