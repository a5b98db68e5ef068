"""Agreement with numbers of the authors' own code."""

import json

import pytest
import torch
from safetensors.torch import load_file

import univa_kernels
from univa_kernels.compat import VA_aware_SupConLoss

# In the "one" cases and "groups" both views are one tensor, given in either of two forms.
CASES = [(f"all{i}", "stacked") for i in range(6)] + [
    (case, views)
    for case in (*(f"one{i}" for i in range(6)), "groups")
    for views in ("stacked", "expanded")
]
USABLE = [name for name in ("reference", "cpu") if not univa_kernels.available_backends()[name]]


@pytest.fixture(params=USABLE)
def _backend(request):
    with univa_kernels.use_backend(request.param):
        yield


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize(("case", "views"), CASES)
def test_supcon_is_the_authors(golden, case, views):
    tensors = load_file(golden / "official_supcon.safetensors")
    options = json.loads((golden / "official_supcon.json").read_text())[case]
    features, va = tensors[f"{case}.features"], tensors[f"{case}.va"]
    if options["contrast_mode"] == "all":
        leaf = features.clone().requires_grad_()
        given = leaf
    else:
        leaf = features[:, 0].clone().requires_grad_()
        given = (
            torch.stack((leaf, leaf), 1) if views == "stacked" else leaf[:, None].expand(-1, 2, -1)
        )
    loss = VA_aware_SupConLoss(options["temperature"], options["contrast_mode"])(
        given,
        va_labels=va,
        thres_dict=options["threshold"],
        batch_belong_diaID=tensors.get(f"{case}.ids"),
    )
    loss.backward()
    assert abs(loss.item() - tensors[f"{case}.loss"].item()) <= options["loss_tolerance"]
    error = (leaf.grad - tensors[f"{case}.grad"]).abs().max().item()
    assert error <= options["grad_tolerance"]


@pytest.mark.usefixtures("_backend")
@pytest.mark.parametrize("corpus", ["MOSEI", "M3ED"])
@pytest.mark.parametrize("form", ["norm", "quadratic"])
def test_prior_is_the_authors(golden, corpus, form):
    tensors = load_file(golden / "correlation_prior.safetensors")
    logits = tensors[f"{corpus}.logits"].requires_grad_()
    matrix = tensors[f"{corpus}.matrix"].requires_grad_()
    if form == "norm":
        predictions, prefix, value = logits.log_softmax(1), "official", "official_prior"
    else:
        predictions, prefix, value = logits.sigmoid(), "quadratic", "quadratic_prior_of_sigmoid"
    prior = univa_kernels.emotion_correlation_prior(predictions, matrix, form=form)
    prior.backward()
    torch.testing.assert_close(prior, tensors[f"{corpus}.{value}"], rtol=1e-10, atol=1e-10)
    for leaf, name in ((logits, "logits"), (matrix, "matrix")):
        expected = tensors[f"{corpus}.{prefix}_grad_{name}"]
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-8, atol=1e-10)
