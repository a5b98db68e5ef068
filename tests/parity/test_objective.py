"""The authors' loss and every gradient, through the loss that `univa train` uses."""

import math

import pytest
import torch

from tests.parity.test_model import CASES, TOLERANCE, WEIGHTS, Case
from univa.models import from_authors_state_dict
from univa_kernels import UniVALoss


@pytest.mark.parametrize("name", CASES)
def test_terms_and_gradients(golden, name):
    case = Case(golden / name, torch.float32)
    weights = WEIGHTS[case.options["DATASET"]]
    loss = UniVALoss(
        temperature=case.options["temperature"],
        radius=case.options["thres_dist"],
        alpha=case.options["alpha"],
        modality_weights=weights,
        prior="norm",
        self_weight=0.5,
    )
    output = case.model(**case.modality_inputs())
    coordinates = {modality: case.inputs[f"{modality}_va"] for modality in output.embeddings}
    terms = loss(
        output.logits, case.inputs["labels"], output.embeddings, coordinates, output.similarity
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
