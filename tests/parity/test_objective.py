"""The authors' loss, its terms and every gradient, through the switch."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.parity.test_model import CASES, TOLERANCE, WEIGHTS, Case
from univa.config import TrainConfig
from univa.config.authors import as_authors
from univa.models import from_authors_state_dict
from univa.presets import PRESETS
from univa.train.objective import Objective


def switched(case: Case, name: str) -> TrainConfig:
    """The preset with the switch on, and the hyper-parameters of the golden case."""
    preset = as_authors(PRESETS[name.replace("_bert", "_roberta").replace("_", "-")]())
    loss = replace(
        preset.loss,
        temperature=case.options["temperature"],
        radius=case.options["thres_dist"],
        alpha=case.options["alpha"],
        prior="norm",
    )
    assert loss.modality_weights == WEIGHTS[case.options["DATASET"]]
    return replace(preset, model=replace(preset.model, prior=True), loss=loss)


def golden_batch(case: Case) -> SimpleNamespace:
    coordinates = {
        key.removesuffix("_va"): value for key, value in case.inputs.items() if key.endswith("_va")
    }
    return SimpleNamespace(
        inputs=case.modality_inputs(), labels=case.inputs["labels"], coordinates=coordinates
    )


@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients(golden, name):
    case = Case(golden / name, torch.float32)
    config = switched(case, name)
    terms = Objective(config, case.model)(golden_batch(case))
    weights = config.loss.modality_weights
    contrastive = sum(weights[key] * term for key, term in terms.contrastive.items()) / 3
    for ours, key in (
        (terms.classification + terms.prior, "multilabel_plus_prior"),
        (contrastive, "contrastive"),
        (terms.total, "loss"),
    ):
        torch.testing.assert_close(ours, case.outputs[key], rtol=TOLERANCE, atol=0)
    terms.total.backward()
    theirs = from_authors_state_dict(case.gradients)
    for key, parameter in case.model.named_parameters():
        wanted, got = theirs[key], parameter.grad
        if wanted.abs().max() < 1e-6:  # a true 0, taken out by a softmax: rounding on both sides
            assert got.abs().max() < 1e-6, key
            continue
        error = (got - wanted).abs().max() / wanted.abs().max()
        assert error < TOLERANCE, f"{key}: {error:.1e}"


@torch.no_grad()
@pytest.mark.parametrize("name", CASES)
def test_without_the_switch_only_a_constant_is_missing(golden, name):
    case = Case(golden / name, torch.float32)
    config = switched(case, name)
    with_it, without = (
        Objective(replace(config, authors=on), case.model)(golden_batch(case))
        for on in (True, False)
    )
    assert with_it.total > without.total + 0.05
    for key, term in without.contrastive.items():
        assert float(with_it.contrastive[key] - term) == pytest.approx(0.693147, abs=1e-5)
