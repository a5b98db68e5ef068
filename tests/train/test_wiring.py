"""Every option of the objective, the optimiser and the data reaches what it names."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import univa.train
from tests.train.tiny import read_log, tiny
from univa.config import LossConfig, OptimizerConfig, TrainConfig
from univa.data import AuthorsNormalizer, VANormalizer
from univa.data.build import load_corpus, make_collator
from univa.data.lexicon import similarity_matrix
from univa.models import UniVA
from univa.train import train
from univa.train.objective import Objective
from univa.train.optim import make_optimizer
from univa_kernels import univa_loss

# A value off its default for every field of LossConfig.
OTHER: dict[str, Any] = {
    "temperature": 0.4,
    "radius": 0.9,
    "alpha": 0.7,
    "text_weight": 1.5,
    "audio_weight": 2.5,
    "vision_weight": 0.5,
    "classification": "bce",
    "prior": "quadratic",
    "self_weight": 0.2,
    "no_positives": "zero",
    "normalize": True,
    "gather": True,
}
# Without the self pair, and so close that some utterances have no positives.
PLAIN = LossConfig(radius=0.3, self_weight=0.0)


def setting(loss: LossConfig) -> tuple[Objective, Any, UniVA]:
    torch.manual_seed(0)
    config = replace(tiny(), loss=loss)
    corpus = load_corpus(config)
    model = UniVA(config.model, similarity=similarity_matrix(config.model.labels)).eval()
    normalizer = VANormalizer.fit(corpus.train)
    batch = make_collator(config, corpus.train, model, normalizer=normalizer)(list(range(30)))
    return Objective(config, model), batch, model


def expected(loss: LossConfig, batch: Any, model: UniVA) -> Any:
    """The functional loss, every option by name."""
    output = model(**batch.inputs)
    return univa_loss(
        output.logits,
        batch.labels,
        output.embeddings,
        batch.coordinates,
        output.similarity,
        temperature=loss.temperature,
        radius=loss.radius,
        alpha=loss.alpha,
        modality_weights={
            "text": loss.text_weight,
            "audio": loss.audio_weight,
            "vision": loss.vision_weight,
        },
        classification=loss.classification,
        prior=loss.prior,
        self_weight=loss.self_weight,
        no_positives=loss.no_positives,
        normalize=loss.normalize,
    )


def test_other_values_are_for_every_field():
    assert list(OTHER) == [field.name for field in fields(LossConfig)]
    assert all(value != getattr(LossConfig(), name) for name, value in OTHER.items())


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in OTHER if name != "gather"])
def test_objective_takes_the_option(name):
    loss = replace(PLAIN, **{name: OTHER[name]})
    objective, batch, model = setting(loss)
    total = objective(batch).total
    torch.testing.assert_close(total, expected(loss, batch, model).total)
    # The comparison can fail: the option changes the loss by more than rounding.
    plain = expected(PLAIN, batch, model).total
    assert abs(float(total - plain)) > 1e-4 * abs(float(plain)), name


@torch.no_grad()
def test_objective_takes_all_options_together():
    loss = LossConfig(**OTHER)
    objective, batch, model = setting(loss)
    for ours, theirs in zip(objective(batch), expected(loss, batch, model), strict=True):
        torch.testing.assert_close(ours, theirs)


class TwoParts(nn.Module):
    """As much of a model as the optimiser asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)

    def text_encoder_parameters(self) -> list[nn.Parameter]:
        return list(self.encoder.parameters())


OPTIMIZER = {
    "learning_rate": 0.01,
    "text_encoder_learning_rate": 0.002,
    "weight_decay": 0.03,
    "beta1": 0.8,
    "beta2": 0.95,
    "eps": 1e-5,
    "warmup_fraction": 0.0,
    "fused": False,
}


def test_optimizer_takes_every_option():
    assert {*OPTIMIZER, "clip_norm", "accumulate"} == {
        field.name for field in fields(OptimizerConfig)
    }
    config = replace(tiny(), optimizer=OptimizerConfig(**OPTIMIZER))
    model = TwoParts()
    optimizer, _ = make_optimizer(config, model, 10)  # type: ignore[arg-type]
    own, encoder = optimizer.param_groups
    assert own["params"] == list(model.head.parameters())
    assert encoder["params"] == list(model.encoder.parameters())
    assert (own["lr"], encoder["lr"]) == (0.01, 0.002)
    for group in (own, encoder):
        assert group["betas"] == (0.8, 0.95)
        assert (group["eps"], group["weight_decay"]) == (1e-5, 0.03)
        assert not group["fused"]
    fused, _ = make_optimizer(tiny(), model, 10)  # type: ignore[arg-type]
    assert all(group["fused"] for group in fused.param_groups)


@pytest.mark.parametrize(("clip_norm", "clipped"), [(1e-3, True), (0.0, False)])
def test_gradients_of_a_step_are_clipped(clip_norm, clipped, tmp_path: Path, monkeypatch):
    step, norms = torch.optim.AdamW.step, []

    def watched(self, *args, **options):
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))
        return step(self, *args, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    config = tiny(run_folder=str(tmp_path / "run"), epochs=1)
    train(replace(config, optimizer=replace(config.optimizer, clip_norm=clip_norm)))
    logged = [r["grad_norm"] for r in read_log(tmp_path / "run") if r["event"] == "step"]
    assert min(logged) > 2e-3  # before clipping
    assert norms == pytest.approx([1e-3] * len(logged) if clipped else logged, rel=1e-3)


@pytest.mark.parametrize("authors", [False, True])
def test_normalization_of_the_run(authors, tmp_path: Path, monkeypatch):
    seen: list[Any] = []
    make = univa.train.setup.make_collator

    def watched(config: TrainConfig, *args: Any, **options: Any) -> Any:
        if options.get("normalizer") is not None:
            seen.append(options["normalizer"])
        return make(config, *args, **options)

    monkeypatch.setattr(univa.train.setup, "make_collator", watched)
    config = tiny(run_folder=str(tmp_path / "run"), epochs=1)
    config = replace(config, data=replace(config.data, authors=authors))
    train(config)
    corpus = load_corpus(config)
    word_vectors = AuthorsNormalizer(twice=("text",))
    assert seen == [word_vectors if authors else VANormalizer.fit(corpus.train)]
