"""The CUDA kernels and their launch code against float64 truths, on the host by tests/cuda_shim.

`test_cuda_objective.py` has the whole objective. `test_gpu.py` holds the same backend against the
same truths where there is a GPU.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import cuda_shim
from tests.kernels import oracle, test_contrastive, test_prior
from tests.kernels.cases import Case, cases
from univa_kernels import contrastive_terms, use_backend, va_supcon_loss

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module", autouse=True)
def shim():
    """Inside this file the backend "cpu" is the CUDA sources.

    torch fills what is allocated with NaN: global memory that is read before it is written shows.
    """
    torch.use_deterministic_algorithms(True)
    assert torch.empty(1).isnan()
    try:
        with cuda_shim.as_cpu_backend() as library, use_backend("cpu"):
            yield library
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def tensor_float32(shim):
    """As where torch's setting allows TF32."""
    shim.univa_shim_allow_tf32(1)
    yield
    shim.univa_shim_allow_tf32(0)


@settings(max_examples=100, deadline=None)
@given(case=cases(), dtype=st.sampled_from(DTYPES))
def test_contrastive_matches_the_truth(case, dtype):
    oracle.check(case, "cpu", dtype)


@settings(max_examples=30, deadline=None)
@given(
    case=cases().filter(lambda case: "contrast_embeddings" not in case.extra),
    dtype=st.sampled_from(DTYPES),
    bank=st.integers(0, 300),
    share=st.floats(0, 1),
)
def test_own_copies_of_a_constant_set(case, dtype, bank, share):
    oracle.check_tied(case, "cpu", dtype, bank, round(share * bank))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_self_pair_does_not_drown_small_logits(dtype):
    # Its weight's logarithm is of another size than logits of 1e-4.
    for n in (2, 3, 65):
        case = case_of(n, 0, 1, self_weight=0.5)
        case.extra["temperature"] = torch.tensor(100.0, dtype=torch.float64)
        oracle.check(case, "cpu", dtype)


def case_of(n, m, d, *, seed=0, **options):
    """A call of some size; m = 0: the anchors are the contrast set."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, d, generator=generator).double() / d**0.5
    case = Case(rows, torch.rand(n, 2, generator=generator), {"radius": 0.2, **options})
    if m:
        case.extra["contrast_embeddings"] = torch.randn(m, d, generator=generator).double()
        case.extra["contrast_coordinates"] = torch.rand(m, 2, generator=generator)
    return case


# More rows than a tile and than a band of columns (256 forward, 65536 / N backward here), deeper
# than a step, odd and even numbers of tiles.
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [(65, 0, 70), (129, 0, 33), (300, 0, 40), (530, 0, 3), (70, 300, 130), (520, 40, 5), (1, 1, 1)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_contrastive_beyond_tiles_and_bands(n, m, d, dtype):
    oracle.check(case_of(n, m, d, temperature=0.5, self_weight=0.5), "cpu", dtype)
    if m:
        case = case_of(n, m, d, self_offset=3, normalize=True)
        case.options["group_pairs"] = "exclude"
        case.extra["groups"] = torch.arange(n) % 7
        case.extra["contrast_groups"] = torch.arange(m) % 7
        oracle.check(case, "cpu", dtype)


def test_few_anchors_and_a_large_memory_keep_to_the_grid():
    # 64 blocks along y here, 65535 on a GPU: 64 columns each.
    oracle.check(case_of(2, 64 * 64 + 70, 3), "cpu", torch.float32)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_empty_sets(n, m):
    rows, others = torch.randn(n, 4, requires_grad=True), torch.randn(m, 4, requires_grad=True)
    losses, count = contrastive_terms(
        rows,
        torch.rand(n, 2),
        contrast_embeddings=others,
        contrast_coordinates=torch.rand(m, 2),
    )
    losses.sum().backward()
    assert losses.eq(0).all()
    assert count.eq(0).all()
    assert rows.grad.eq(0).all()
    assert others.grad.eq(0).all()


def test_rows_of_no_columns():
    rows = torch.zeros(3, 0, requires_grad=True)
    losses, _ = contrastive_terms(rows, torch.zeros(3, 2))
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.full((3,), 2.0).log())


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_and_strided_rows_give_the_same_bits(dtype):
    generator = torch.Generator().manual_seed(1)
    plain = torch.randn(70, 40, generator=generator).to(dtype)
    va = torch.rand(70, 2, generator=generator)

    def result(rows):
        rows = rows.requires_grad_()
        loss = va_supcon_loss(rows, va, radius=0.3)
        return loss.detach(), torch.autograd.grad(loss, rows)[0]

    want = result(plain.clone())
    storage = torch.zeros(70 * 40 + 1, dtype=dtype)
    unaligned = storage[1:].view(70, 40).copy_(plain)
    assert unaligned.is_contiguous()
    assert unaligned.data_ptr() % 16
    strided = torch.zeros(70, 80, dtype=dtype)[:, ::2].copy_(plain)
    for rows in (unaligned, strided, plain.T.contiguous().T):
        assert all(map(torch.equal, result(rows.detach()), want))


def test_odd_depths_take_the_narrow_copies():
    # 34 halves per row: 4 bytes at a time; 33: one by one; 36: 8 bytes are 4 at a time.
    for depth in (33, 34, 36):
        oracle.check(case_of(40, 0, depth), "cpu", torch.bfloat16)
        oracle.check(case_of(40, 0, depth), "cpu", torch.float32)


def test_tensor_float32_where_torch_allows_it(shim, tensor_float32):
    case = case_of(200, 0, 64, temperature=0.5)
    rounded = oracle.evaluate(case, "cpu", torch.float32)
    shim.univa_shim_allow_tf32(0)
    exact = oracle.evaluate(case, "cpu", torch.float32)
    truth = oracle.expected(case, torch.float32)
    for got, want, name in (
        (rounded.losses, truth.losses, "losses"),
        (rounded.grads["embeddings"], truth.grads["embeddings"], "gradient"),
    ):
        scale = want.abs().max()
        assert 1e-6 < (got.double() - want).abs().max() / scale < 4e-3, name
    oracle.check(case, "cpu", torch.float32)  # not allowed any more: float32 throughout
    assert not torch.equal(rounded.losses, exact.losses)


def test_half_types_do_not_ask_for_tensor_float32(shim):
    case = case_of(60, 0, 24, normalize=True)
    before = oracle.evaluate(case, "cpu", torch.bfloat16)
    shim.univa_shim_allow_tf32(1)
    after = oracle.evaluate(case, "cpu", torch.bfloat16)
    shim.univa_shim_allow_tf32(0)
    assert torch.equal(before.losses, after.losses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_radius_decides_by_the_rounded_distance(dtype):
    # Radii that are distances themselves. NumPy's square root is rounded correctly; torch's of
    # float32 on a CPU is one unit off now and then.
    generator = torch.Generator().manual_seed(9)
    va = torch.rand(60, 3, generator=generator).to(dtype)
    gaps = (va[:, None] - va[None]).numpy()
    squares = (gaps[..., 0] ** 2 + gaps[..., 1] ** 2) + gaps[..., 2] ** 2
    distances = np.sqrt(squares)
    np.fill_diagonal(distances, np.inf)
    for i in range(1, 60):
        radius = distances[0, i]
        _, count = contrastive_terms(torch.randn(60, 4), va, radius=float(radius))
        assert count.tolist() == (distances < radius).sum(1).tolist()


@pytest.mark.parametrize(
    "check",
    [
        lambda: test_contrastive.test_unnormalised_rows_stay_finite("cpu", 0.005),
        lambda: test_contrastive.test_own_pair_does_not_set_the_maximum("cpu"),
        lambda: test_contrastive.test_all_rows_identical_and_one_row_far_away("cpu", False),
        lambda: test_contrastive.test_all_rows_identical_and_one_row_far_away("cpu", True),
        lambda: test_contrastive.test_gradient_check("cpu"),
        lambda: test_prior.test_nan_is_not_swallowed("cpu", "norm"),
        lambda: test_prior.test_norm_of_equal_columns_has_no_gradient("cpu"),
        lambda: test_prior.test_no_rows("cpu", "quadratic"),
    ],
)
def test_what_every_backend_has_to_do(check):
    check()


def test_nan_reaches_the_loss():
    rows = torch.randn(40, 8)
    rows[3, 2] = float("nan")
    assert va_supcon_loss(rows, torch.zeros(40, 2)).isnan()


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 70),
    labels=st.integers(1, 12),
    form=st.sampled_from(["quadratic", "norm"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_prior_matches_the_truth(n, labels, form, dtype, seed):
    test_prior.check("cpu", n, labels, form, dtype, seed)
