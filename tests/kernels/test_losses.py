"""The public modules and functions: agreement with each other, and errors."""

import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.kernels import truth
from tests.kernels.cases import BACKENDS
from univa_kernels import (
    EmotionCorrelationPrior,
    UniVALoss,
    VASupConLoss,
    emotion_correlation_prior,
    univa_loss,
    use_backend,
    va_supcon_loss,
)
from univa_kernels.compat import VA_aware_SupConLoss


@pytest.fixture(params=BACKENDS, autouse=True)
def backend_name(request):
    with use_backend(request.param):
        yield request.param


def batch(size=10, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    names = ("text", "audio", "vision")
    return {
        "logits": torch.randn(size, 6, generator=generator).to(dtype),
        "labels": torch.randint(0, 2, (size, 6), generator=generator),
        "embeddings": {m: torch.randn(size, 8, generator=generator).to(dtype) for m in names},
        "coordinates": {m: torch.randn(size, 2, generator=generator) for m in names},
        "similarity": torch.randn(6, 6, generator=generator).to(dtype),
    }


@pytest.mark.parametrize("classification", ["kl", "bce"])
@pytest.mark.parametrize("prior", ["norm", "quadratic", None])
def test_objective_is_its_formula(classification, prior):
    data = batch()
    weights = {"text": 3.0, "audio": 1.0, "vision": 0.5}
    got = univa_loss(
        **data,
        temperature=0.4,
        radius=0.8,
        alpha=0.3,
        modality_weights=weights,
        classification=classification,
        prior=prior,
        self_weight=0.5,
    )
    logits, labels = data["logits"], data["labels"].double()
    if classification == "kl":
        target = labels.softmax(1)
        divergence = (target * (target.log() - logits.log_softmax(1))).mean() * 1000
        probabilities = logits.softmax(1)
    else:
        divergence = F.binary_cross_entropy(logits.sigmoid(), labels)
        probabilities = logits.sigmoid()
    eta = torch.zeros(()).double()
    if prior is not None:
        y = logits.log_softmax(1) if prior == "norm" else probabilities
        eta = truth.correlation_prior(y, data["similarity"], prior)
    terms = {}
    for name in weights:
        losses, _ = truth.contrastive_losses(
            data["embeddings"][name],
            data["coordinates"][name],
            temperature=0.4,
            radius=0.8,
            self_weight=0.5,
        )
        terms[name] = losses.mean()
    total = 0.7 * (divergence + eta) + 0.3 * sum(weights[m] * terms[m] for m in terms) / 3
    torch.testing.assert_close(got.classification, divergence)
    torch.testing.assert_close(got.prior, eta)
    torch.testing.assert_close(got.contrastive, terms)
    torch.testing.assert_close(got.total, total)


def objective_cases(labels=range(1, 8), dtypes=(torch.float64, torch.float32, torch.bfloat16)):
    """Calls of the objective with all its options, as `check_objective` takes them."""
    options = {
        "alpha": st.sampled_from([0.0, 0.45, 1.0]),
        "radius": st.sampled_from([0.1, 0.5, 3.0]),
        "sigma": st.sampled_from([None, 0.3]),
        "classification": st.sampled_from(["kl", "bce"]),
        "prior": st.sampled_from([None, "norm", "quadratic"]),
        "self_weight": st.sampled_from([0.0, 0.5]),
        "no_positives": st.sampled_from(["skip", "zero"]),
        "normalize": st.booleans(),
    }
    return st.fixed_dictionaries(
        {
            "size": st.integers(1, 20),
            "labels": st.sampled_from(list(labels)),
            "names": st.sets(st.sampled_from(["text", "audio", "vision"])),
            "without": st.sampled_from(["text", "audio", None]),
            "options": st.fixed_dictionaries(options),
            "learn": st.booleans(),
            "dtype": st.sampled_from(list(dtypes)),
            "seed": st.integers(0, 2**31),
        }
    )


def check_objective(
    backend, *, size, labels, names, without, options, learn, dtype, seed, device="cpu"
):
    """Terms and gradients of a backend against the float64 truth.

    names: modalities with embeddings; without: the one that has no coordinates; learn: whether
    the temperature is a tensor that requires a gradient.
    """
    generator = torch.Generator().manual_seed(seed)

    def tensor(*shape):
        return torch.randn(shape, generator=generator).to(dtype)

    dims = {"text": 5, "audio": 9, "vision": 3}
    leaves = {"logits": tensor(size, labels), "similarity": tensor(labels, labels)}
    leaves |= {name: tensor(size, dims[name]) for name in sorted(names)}
    if learn:
        leaves["temperature"] = torch.tensor(0.6)
    targets = torch.randint(0, 2, (size, labels), generator=generator)
    va = {
        name: torch.randint(-4, 5, (size, 2), generator=generator) / 8
        for name in sorted(names - {without})
    }
    upstream = torch.randn(3 + len(va), generator=generator).double()

    def evaluate(function, convert):
        rows = {name: convert(leaf).requires_grad_() for name, leaf in leaves.items()}
        embeddings = {name: rows[name] for name in rows if name in dims}
        temperature = rows.get("temperature", 0.6)
        terms = function(rows["logits"], targets, embeddings, va, rows["similarity"], temperature)
        total = (terms * upstream.to(terms)).sum()
        grads = torch.autograd.grad(total, list(rows.values()), allow_unused=True)
        zero = [torch.zeros_like(leaf) for leaf in rows.values()]
        filled = [z if g is None else g for g, z in zip(grads, zero, strict=True)]
        own = [grad.double().cpu() for grad in filled]
        return terms.detach().double().cpu(), dict(zip(rows, own, strict=True))

    def ours(logits, targets, embeddings, va, similarity, temperature):
        given_similarity = None if options["prior"] is None else similarity
        output = univa_loss(
            logits,
            targets.to(device),
            embeddings,
            {name: points.to(device) for name, points in va.items()},
            given_similarity,
            temperature=temperature,
            **options,
        )
        return torch.stack((*output[:3], *output.contrastive.values()))

    def exact(logits, targets, embeddings, va, similarity, temperature):
        return truth.objective(
            logits, targets, embeddings, va, similarity, temperature=temperature, **options
        )

    with use_backend(backend):
        terms, grads = evaluate(ours, lambda leaf: leaf.to(device, copy=True))
    want, true = evaluate(exact, lambda leaf: leaf.double().clone())
    half = dtype in (torch.bfloat16, torch.float16)
    tolerance = 1e-11 if dtype == torch.float64 else 2e-5
    if dtype == torch.float64 and learn:
        tolerance = 1e-6  # the temperature itself is given in float32 there
    size_of_terms = max(1.0, want.abs().max().item())
    assert (terms - want).abs().max() <= tolerance * size_of_terms
    for name, grad in grads.items():
        scale = max(0.1, true[name].abs().max().item())
        bound = 2**-7 if half and name != "temperature" else 5 * tolerance
        assert (grad - true[name]).abs().max() <= bound * scale, name


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(case=objective_cases())
def test_objective_and_gradients_match_the_truth(backend_name, case):
    check_objective(backend_name, **case)


def test_objective_takes_stacked_modalities():
    data = batch()
    order = ("text", "audio", "vision")
    stacked = {
        **data,
        "embeddings": torch.stack([data["embeddings"][name] for name in order]),
        "coordinates": torch.stack([data["coordinates"][name] for name in order]),
    }
    one, other = univa_loss(**data, prior="norm"), univa_loss(**stacked, prior="norm")
    assert torch.equal(one.total, other.total)
    assert list(other.contrastive) == list(order)


def test_mixed_dtypes_are_widened():
    data = batch(dtype=torch.float32)
    half = {name: rows.bfloat16() for name, rows in data["embeddings"].items()}
    mixed = univa_loss(**{**data, "embeddings": half})
    wide = univa_loss(**{**data, "embeddings": {name: rows.float() for name, rows in half.items()}})
    assert torch.equal(mixed.total, wide.total)


def test_objective_under_activation_checkpointing():
    # It hands out what a backward keeps once only.
    logits, rows = torch.randn(6, 3), torch.randn(6, 4)
    labels, places = torch.eye(3).repeat(2, 1), torch.rand(6, 2)
    grads = []
    for run in (lambda f, *x: f(*x), partial(checkpoint, use_reentrant=False)):
        leaves = [logits.clone().requires_grad_(), rows.clone().requires_grad_()]

        def total(logits, rows):
            options = {"a": rows}, {"a": places}, torch.eye(3)
            return UniVALoss()(logits, labels, *options).total

        run(total, *leaves).backward()
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads)


def test_objective_learns_its_temperature():
    data = batch(dtype=torch.float32)
    loss = UniVALoss(temperature=0.4, learn_temperature=True)
    loss(**data).total.backward()
    assert loss.log_temperature.grad.abs() > 0
    assert "temperature=0.4" in repr(loss)


@pytest.mark.parametrize("kind", [UniVALoss, VASupConLoss])
def test_every_option_is_in_the_repr(kind):
    """But for radius, which says nothing beside sigma."""
    named = set(inspect.signature(kind).parameters)
    for options, unsaid in (({}, {"sigma"}), ({"sigma": 0.5}, {"radius"})):
        shown = repr(kind(**options))
        assert {name for name in named if f"{name}=" in shown} == named - unsaid


def test_modules_equal_their_functions():
    data = batch(dtype=torch.float32)
    text, va = data["embeddings"]["text"], data["coordinates"]["text"]
    assert torch.equal(
        VASupConLoss(0.3, 0.7, self_weight=0.5, normalize=True)(text, va),
        va_supcon_loss(text, va, temperature=0.3, radius=0.7, self_weight=0.5, normalize=True),
    )
    options = {"temperature": 0.3, "alpha": 0.2, "prior": "quadratic", "classification": "bce"}
    assert torch.equal(UniVALoss(**options)(**data).total, univa_loss(**data, **options).total)
    probabilities = data["logits"].sigmoid()
    assert torch.equal(
        EmotionCorrelationPrior(data["similarity"])(probabilities),
        emotion_correlation_prior(probabilities, data["similarity"]),
    )


def test_normalize_ignores_the_length_of_rows():
    rows, va = torch.randn(8, 5), torch.rand(8, 2)
    scaled = rows * torch.rand(8, 1).add(0.5)
    torch.testing.assert_close(
        va_supcon_loss(rows, va, radius=0.5, normalize=True),
        va_supcon_loss(scaled, va, radius=0.5, normalize=True),
    )


def test_modality_without_coordinates_has_no_term():
    data = batch()
    full = univa_loss(**data, alpha=1.0)
    del data["coordinates"]["audio"]
    part = univa_loss(**data, alpha=1.0)
    assert sorted(part.contrastive) == ["text", "vision"]
    torch.testing.assert_close(part.total, full.total - full.contrastive["audio"] / 3)


def test_half_self_weight_is_two_equal_views_without_log_two():
    rows, va = torch.randn(9, 5).double(), torch.rand(9, 2)
    single = va_supcon_loss(rows, va, temperature=0.7, radius=0.3, self_weight=0.5)
    doubled = VA_aware_SupConLoss(0.7)(torch.stack((rows, rows), 1), None, va, 0.3)
    torch.testing.assert_close(single + math.log(2), doubled)


ROWS, VA = torch.randn(4, 3), torch.rand(4, 2)


@pytest.mark.parametrize(
    ("error", "message", "arguments", "options"),
    [
        (TypeError, "embeddings must be a tensor", ([[1.0]], VA), {}),
        (TypeError, "embeddings must be float32", (ROWS.int(), VA), {}),
        (ValueError, r"embeddings must have shape \[N, D\]", (ROWS[0], VA), {}),
        (ValueError, "coordinates must have one row for each row", (ROWS, VA[:3]), {}),
        (ValueError, "coordinates must have shape", (ROWS, VA[:, :0]), {}),
        (TypeError, "coordinates must be a tensor", (ROWS, None), {}),
        (ValueError, "temperature must be finite and > 0", (ROWS, VA), {"temperature": 0}),
        (ValueError, "temperature", (ROWS, VA), {"temperature": float("nan")}),
        (ValueError, "temperature must be a number or", (ROWS, VA), {"temperature": VA}),
        (
            TypeError,
            "temperature must be floating",
            (ROWS, VA),
            {"temperature": torch.ones(()).int()},
        ),
        (
            ValueError,
            "temperature is on meta",
            (ROWS, VA),
            {"temperature": torch.ones((), device="meta")},
        ),
        (ValueError, "sigma must be finite and > 0", (ROWS, VA), {"sigma": 0.0}),
        (ValueError, "group_pairs must be one of", (ROWS, VA), {"group_pairs": "drop"}),
        (ValueError, "anchor_views must be one of", (ROWS, VA), {"anchor_views": "first"}),
        (ValueError, "sample_weights must have shape", (ROWS, VA), {"sample_weights": VA}),
        (TypeError, "sample_weights must be a tensor", (ROWS, VA), {"sample_weights": [1.0] * 4}),
        (ValueError, "at least one view", (torch.zeros(4, 0, 3), VA), {}),
        (
            ValueError,
            "without views",
            (torch.zeros(4, 2, 3), VA),
            {"contrast_embeddings": ROWS, "contrast_coordinates": VA},
        ),
        (TypeError, "temperature must be a number", (ROWS, VA), {"temperature": "hot"}),
        (ValueError, "radius must be finite and >= 0", (ROWS, VA), {"radius": -0.1}),
        (ValueError, "self_weight must be .* <= 1", (ROWS, VA), {"self_weight": 1.5}),
        (ValueError, "reduction must be one of", (ROWS, VA), {"reduction": "avg"}),
        (ValueError, "no_positives must be one of", (ROWS, VA), {"no_positives": "drop"}),
        (ValueError, "need contrast_embeddings", (ROWS, VA), {"contrast_coordinates": VA}),
        (ValueError, "need contrast_coordinates", (ROWS, VA), {"contrast_embeddings": ROWS}),
        (ValueError, "self_offset needs", (ROWS, VA), {"self_offset": 1}),
        (ValueError, "tie_self needs contrast_embeddings", (ROWS, VA), {"tie_self": True}),
        *(
            (
                ValueError,
                message,
                (ROWS[:3], VA[:3]),
                {
                    "contrast_embeddings": contrast,
                    "contrast_coordinates": VA,
                    "tie_self": True,
                    "self_offset": offset,
                },
            )
            for message, contrast, offset in (
                ("tie_self needs self_offset from 0 to 1, .* got None", ROWS, None),
                ("tie_self needs self_offset from 0 to 1, .* got -1", ROWS, -1),
                ("tie_self needs self_offset from 0 to 1, .* got 2", ROWS, 2),
                ("without gradient: detach", ROWS.clone().requires_grad_(), 0),
            )
        ),
        (
            ValueError,
            "as many columns as embeddings: 2 against 3",
            (ROWS, VA),
            {"contrast_embeddings": ROWS[:, :2], "contrast_coordinates": VA},
        ),
        (
            TypeError,
            "contrast_embeddings are torch.float64",
            (ROWS, VA),
            {"contrast_embeddings": ROWS.double(), "contrast_coordinates": VA},
        ),
        (
            ValueError,
            "as many columns as coordinates",
            (ROWS, VA),
            {"contrast_embeddings": ROWS, "contrast_coordinates": VA[:, 0]},
        ),
        (
            ValueError,
            "groups and contrast_groups go together",
            (ROWS, VA),
            {
                "contrast_embeddings": ROWS,
                "contrast_coordinates": VA,
                "groups": torch.zeros(4, dtype=torch.long),
            },
        ),
        (TypeError, "groups must be integers", (ROWS, VA), {"groups": torch.zeros(4)}),
        (ValueError, "groups must have shape", (ROWS, VA), {"groups": torch.zeros(3).long()}),
        (ValueError, "is on meta", (ROWS, VA.to("meta")), {}),
    ],
)
def test_contrastive_loss_refuses(error, message, arguments, options):
    with pytest.raises(error, match=message):
        va_supcon_loss(*arguments, **options)


@pytest.mark.parametrize(
    ("error", "message", "changes"),
    [
        (ValueError, "labels must have the shape of logits", {"labels": torch.zeros(10, 5)}),
        (ValueError, "modality 'smell'", {"coordinates": {"smell": torch.zeros(10, 2)}}),
        (ValueError, r"embeddings\['text'\] must have one row", {"embeddings": {"text": ROWS}}),
        (ValueError, "needs the similarity matrix", {"similarity": None, "prior": "norm"}),
        (ValueError, "similarity must be", {"similarity": torch.eye(3), "prior": "norm"}),
        (ValueError, "alpha must be", {"alpha": 2.0}),
        (ValueError, "classification must be one of", {"classification": "ce"}),
        (ValueError, "prior must be one of", {"prior": "cubic"}),
        (ValueError, "no_positives must be one of", {"no_positives": "error"}),
        (ValueError, r"must be a mapping or have shape \[3, B, _\]", {"coordinates": VA}),
        (ValueError, "modality_weights", {"modality_weights": {"text": -1.0}}),
    ],
)
def test_objective_refuses(error, message, changes):
    data = batch()
    if "embeddings" in changes:
        data["coordinates"] = {}
    with pytest.raises(error, match=message):
        univa_loss(**{**data, **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: VASupConLoss(temperature=0),
        lambda: VASupConLoss(radius=-1),
        lambda: VASupConLoss(sigma=-1),
        lambda: VASupConLoss.for_multilabel(max_hamming=-1),
        lambda: UniVALoss(alpha=-0.1),
        lambda: EmotionCorrelationPrior(torch.zeros(2, 3)),
        lambda: EmotionCorrelationPrior(torch.eye(2), "cubic"),
        lambda: VA_aware_SupConLoss(0.1, "some"),
        lambda: VA_aware_SupConLoss()(torch.zeros(3, 4), None, torch.zeros(3, 2), 0.1),
        lambda: VA_aware_SupConLoss()(torch.zeros(3, 2, 4)),
    ],
)
def test_constructors_refuse(make):
    with pytest.raises(ValueError):  # noqa: PT011  (the messages are checked above)
        make()
