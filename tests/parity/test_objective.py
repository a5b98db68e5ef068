"""The authors' loss and every gradient, through the objective that `univa train` steps on."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.parity.test_model import CASES, TOLERANCE, WEIGHTS, Case
from univa.models import from_authors_state_dict
from univa.objective import Objective
from univa.presets import PRESETS


@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients(golden, name):
    case = Case(golden / name, torch.float32)
    weights = WEIGHTS[case.options["DATASET"]]
    preset = PRESETS[name.replace("_bert", "_roberta").replace("_", "-")]()
    # The golden case has options of its own; all others of the loss are the preset's.
    settings = replace(
        preset.loss,
        temperature=case.options["temperature"],
        radius=case.options["thres_dist"],
        alpha=case.options["alpha"],
        prior="norm",
    )
    assert settings.modality_weights == weights
    model_config = replace(preset.model, prior=True)
    config = replace(preset, model=model_config, loss=settings)
    objective = Objective(config, case.model)
    coordinates = {
        key.removesuffix("_va"): value for key, value in case.inputs.items() if key.endswith("_va")
    }
    terms = objective(
        SimpleNamespace(
            inputs=case.modality_inputs(), labels=case.inputs["labels"], coordinates=coordinates
        )
    )
    close = {"rtol": TOLERANCE, "atol": 0}
    torch.testing.assert_close(
        terms.classification + terms.prior, case.outputs["multilabel_plus_prior"], **close
    )
    # Two equal views are one view and the constant log 2 for each modality.
    constant = math.log(2) * sum(weights.values()) / 3
    total = terms.total + case.options["alpha"] * constant
    torch.testing.assert_close(total, case.outputs["loss"], **close)
    terms.total.backward()
    theirs = from_authors_state_dict(case.gradients)
    for key, parameter in case.model.named_parameters():
        wanted, got = theirs[key], parameter.grad
        if wanted.abs().max() < 1e-6:  # a true 0, taken out by a softmax: rounding on both sides
            assert got.abs().max() < 1e-6, key
            continue
        error = (got - wanted).abs().max() / wanted.abs().max()
        assert error < TOLERANCE, f"{key}: {error:.1e}"
