"""The contrastive loss of every backend against a float64 truth over all pairs."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import univa_kernels
from tests.kernels import truth
from tests.kernels.cases import BACKENDS, Case, cases
from tests.kernels.oracle import HAIR, check, check_tied, evaluate, expected
from univa_kernels import contrastive_terms, use_backend, va_supcon_loss

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@settings(max_examples=60, deadline=None)
@given(case=cases(), dtype=st.sampled_from(list(HAIR)))
def test_matches_the_truth(backend, case, dtype):
    check(case, backend, dtype)


@settings(max_examples=40, deadline=None)
@given(
    case=cases().filter(lambda case: "contrast_embeddings" not in case.extra),
    dtype=st.sampled_from(list(HAIR)),
    bank=st.integers(0, 300),
    share=st.floats(0, 1),
)
def test_own_copies_of_a_constant_set(backend, case, dtype, bank, share):
    check_tied(case, backend, dtype, bank, round(share * bank))


@pytest.mark.parametrize("dtype", list(HAIR))
def test_few_rows_against_many_that_are_scaled(backend, dtype):
    generator = torch.Generator().manual_seed(5)
    rows, bank = (torch.randn(n, 12, generator=generator).double() for n in (20, 700))
    bank *= torch.logspace(-3, 3, len(bank))[:, None]
    places = [torch.rand(n, 2, generator=generator) for n in (20, 700)]
    extra = {"contrast_embeddings": bank, "contrast_coordinates": places[1]}
    case = Case(rows, places[0], {"normalize": True, "radius": 0.2}, extra)
    check(case, backend, dtype)


@settings(max_examples=15, deadline=None)
@given(case=cases(min_n=130, max_n=420), dtype=st.sampled_from([torch.float64, torch.float32]))
def test_matches_the_truth_over_several_tiles(backend, case, dtype):
    check(case, backend, dtype)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("smallest", [1e-3, 1.0])
def test_rows_of_very_different_lengths(backend, learned, dtype, smallest):
    # Maxima and log Z so far apart that one exponential cannot serve a row and a column.
    generator = torch.Generator().manual_seed(11)
    rows = torch.randn(300, 6, generator=generator).double()
    rows = rows * torch.logspace(0, 2, 300)[torch.randperm(300, generator=generator), None]
    rows[::3] *= smallest
    options = {"radius": 0.3, "self_weight": 0.5}
    extra = {}
    if learned:
        extra["temperature"] = torch.tensor(0.5, dtype=torch.float64)
    else:
        options["temperature"] = 0.5
    check(Case(rows, torch.rand(300, 2, generator=generator), options, extra), backend, dtype)


def test_columns_far_below_the_common_maximum(backend):
    # Half of the rows have logits of up to 100 among themselves, the rest next to none: relative to
    # the tile's maximum the latter's columns are beyond float32.
    generator = torch.Generator().manual_seed(0)
    rows = torch.zeros(260, 4).double()
    rows[::2, 0] = 10
    rows[:, 1:] = torch.randn(260, 3, generator=generator).double() / 2
    options = {"radius": 0.3, "temperature": 1.0}
    case = Case(rows, torch.rand(260, 2, generator=generator), options)
    check(case, backend, torch.float32)
    check(case, backend, torch.float64)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_with_all_pairs_of_a_tile_left_out(backend, dtype, learned):
    generator = torch.Generator().manual_seed(1)
    groups = torch.zeros(300, dtype=torch.int64)
    groups[::7] = 1
    options = {"radius": 0.2, "group_pairs": "exclude"}
    extra = {"groups": groups}
    if learned:
        extra["temperature"] = torch.tensor(0.7, dtype=torch.float64)
    rows = torch.randn(300, 8, generator=generator).double()
    check(Case(rows, torch.rand(300, 2, generator=generator), options, extra), backend, dtype)


@pytest.mark.parametrize(("n", "m", "d"), [(300, 300, 70), (513, 1025, 33), (1, 1, 1), (2, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_larger_than_a_block(backend, n, m, d, dtype, monkeypatch):
    monkeypatch.setattr(univa_kernels.reference, "_BLOCK_ELEMENTS", 1 << 17)
    generator = torch.Generator().manual_seed(n)
    case = Case(
        torch.randn(n, d, generator=generator).double(),
        torch.rand(n, 2, generator=generator),
        {"temperature": 0.5, "radius": 0.1, "self_offset": 3},
        {
            "contrast_embeddings": torch.randn(m, d, generator=generator).double(),
            "contrast_coordinates": torch.rand(m, 2, generator=generator),
        },
    )
    check(case, backend, dtype)
    check(
        Case(case.embeddings, case.coordinates, {"temperature": 0.5, "radius": 0.1}), backend, dtype
    )


@pytest.mark.parametrize("temperature", [0.005, 0.07, 100.0])
def test_unnormalised_rows_stay_finite(backend, temperature):
    generator = torch.Generator().manual_seed(7)
    rows = torch.randn(30, 16, generator=generator)
    rows = 100 * rows / rows.norm(dim=1, keepdim=True)
    options = {"temperature": temperature, "radius": 0.3}
    case = Case(rows.double(), torch.rand(30, 2, generator=generator), options)
    check(case, backend, torch.float32)


def test_own_pair_does_not_set_the_maximum(backend):
    # Orthogonal rows of norm 1000: own logits 1e7, all others 0. SupContrast gives NaN here.
    embeddings = (1000 * torch.eye(6)).requires_grad_()
    with use_backend(backend):
        loss = va_supcon_loss(embeddings, torch.zeros(6, 2), temperature=0.1)
    loss.backward()
    torch.testing.assert_close(loss.item(), torch.tensor(5.0).log().item())
    assert embeddings.grad.isfinite().all()


@pytest.mark.parametrize("anchor_views", ["all", "one"])
@pytest.mark.parametrize("sample_weights", [False, True])
def test_views_are_more_samples_at_the_same_place(backend, anchor_views, sample_weights):
    generator = torch.Generator().manual_seed(2)
    views = torch.randn(7, 3, 5, generator=generator).double().requires_grad_()
    va = torch.rand(7, 2, generator=generator)
    groups = torch.arange(7) // 2
    weights = torch.rand(7, generator=generator).double() if sample_weights else None
    options = {"temperature": 0.4, "radius": 0.3, "groups": groups, "anchor_views": anchor_views}
    with use_backend(backend):
        rows = va_supcon_loss(views, va, reduction="none", **options)
        mean = va_supcon_loss(views, va, sample_weights=weights, **options)
    order = [(sample, view) for view in range(3) for sample in range(7)]
    flat = torch.stack([views[sample, view] for sample, view in order])
    where = torch.tensor([sample for sample, _ in order])
    losses, count = truth.contrastive_losses(
        flat, va[where], temperature=0.4, radius=0.3, groups=groups[where]
    )
    assert count.gt(0).all()
    if anchor_views == "all":
        expected_rows = losses.view(3, 7).T
        expected_weights = None if weights is None else weights[:, None].expand(7, 3)
    else:
        expected_rows, expected_weights = losses[:7], weights
    torch.testing.assert_close(rows, expected_rows)
    if expected_weights is None:
        torch.testing.assert_close(mean, expected_rows.mean())
    else:
        average = (expected_weights * expected_rows).sum() / expected_weights.sum()
        torch.testing.assert_close(mean, average)


@pytest.mark.parametrize("normalize", [False, True])
def test_all_rows_identical_and_one_row_far_away(backend, normalize):
    generator = torch.Generator().manual_seed(4)
    same = torch.ones(20, 6).double()
    far = torch.cat((torch.randn(19, 6, generator=generator), torch.full((1, 6), 1e4))).double()
    for rows in (same, far):
        options = {"temperature": 0.1, "radius": 0.5, "normalize": normalize}
        case = Case(rows, torch.rand(20, 2, generator=generator), options)
        check(case, backend, torch.float64)
        check(case, backend, torch.float32)


def test_no_row_of_the_gradient_is_lost(backend):
    generator = torch.Generator().manual_seed(6)
    case = Case(
        torch.randn(1100, 9, generator=generator).double(),
        torch.rand(1100, 2, generator=generator),
        {"temperature": 0.5, "radius": 0.2},
    )
    grads = evaluate(case, backend, torch.float32).grads
    true = expected(case, torch.float32).grads
    sizes = grads["embeddings"].norm(dim=1).double() / true["embeddings"].norm(dim=1)
    torch.testing.assert_close(sizes, torch.ones(1100).double(), rtol=1e-3, atol=0)


def test_gradient_check(backend):
    generator = torch.Generator().manual_seed(3)
    for case in (
        Case(torch.randn(7, 3, generator=generator).double(), torch.rand(7, 2), {"radius": 0.5}),
        Case(
            torch.randn(5, 3, generator=generator).double(),
            torch.rand(5, 2),
            {"radius": 0.5, "self_weight": 0.5, "self_offset": 1},
            {
                "contrast_embeddings": torch.randn(6, 3, generator=generator).double(),
                "contrast_coordinates": torch.rand(6, 2),
            },
        ),
    ):
        with use_backend(backend):
            leaves = case.inputs(torch.float64)
            assert torch.autograd.gradcheck(
                lambda *values, case=case, names=tuple(leaves): case.call(
                    contrastive_terms, dict(zip(names, values, strict=True))
                )[0],
                tuple(leaves.values()),
            )


def test_second_derivatives_work_or_are_refused(backend):
    embeddings = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    coordinates = torch.rand(5, 2)
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)

    def loss(leaf, tau):
        return va_supcon_loss(leaf, coordinates, radius=0.7, temperature=tau, normalize=True)

    with use_backend(backend):
        if backend == "reference":
            assert torch.autograd.gradgradcheck(loss, (embeddings, temperature))
        else:
            value = loss(embeddings, 0.7)
            (first,) = torch.autograd.grad(value, embeddings, create_graph=True)
            with pytest.raises(RuntimeError, match="differentiated once only"):
                first.sum().backward()


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("size", [200, 1100])
def test_same_bits_on_every_repeat(backend, size, threads, request):
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(size)
    embeddings = torch.randn(size, 32, generator=generator).double()
    case = Case(embeddings, torch.rand(size, 2, generator=generator), {"temperature": 0.7})
    check(case, backend, torch.float32)
    results = []
    for _ in range(3):
        outcome = evaluate(case, backend, torch.float32)
        results.append((outcome.losses, *outcome.grads.values()))
    assert all(
        torch.equal(a, b) for run in results[1:] for a, b in zip(run, results[0], strict=True)
    )
