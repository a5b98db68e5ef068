"""The kernel tests on CUDA tensors: what `scripts/gpu_check.sh` runs where there is a GPU."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracle, test_ops, test_prior
from tests.kernels.cases import Case, cases
from univa_kernels import UniVALoss, backends, use_backend, va_supcon_loss

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def test_cuda_tensors_take_the_cuda_backend():
    assert backends.select(torch.zeros(1, device="cuda")).name == "cuda"


@pytest.mark.parametrize("backend", ["cuda", "reference"])
@settings(max_examples=100, deadline=None)
@given(case=cases(), dtype=st.sampled_from(DTYPES))
def test_contrastive_matches_the_truth(backend, case, dtype):
    oracle.check(case, backend, dtype, "cuda")


@pytest.mark.parametrize(("n", "d"), [(300, 70), (1025, 33), (64, 4096), (2, 20000), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_contrastive_at_odd_sizes(n, d, dtype):
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, d, generator=generator).double() / d**0.5
    case = Case(rows, torch.rand(n, 2, generator=generator), {"temperature": 0.5, "radius": 0.1})
    oracle.check(case, "cuda", dtype, "cuda")


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 70),
    labels=st.integers(1, 12),
    form=st.sampled_from(["quadratic", "norm"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
)
def test_prior_matches_the_truth(n, labels, form, dtype, seed):
    test_prior.check("cuda", n, labels, form, dtype, seed, "cuda")


def test_same_bits_on_every_repeat():
    rows = torch.randn(500, 64, device="cuda", requires_grad=True)
    va = torch.rand(500, 2, device="cuda")
    runs = []
    for _ in range(5):
        loss = va_supcon_loss(rows, va)
        runs.append((loss, *torch.autograd.grad(loss, rows)))
    for loss, grad in runs[1:]:
        assert torch.equal(loss, runs[0][0])
        assert torch.equal(grad, runs[0][1])


def test_nan_reaches_the_loss():
    rows = torch.randn(40, 8, device="cuda")
    rows[3, 2] = float("nan")
    assert va_supcon_loss(rows, torch.zeros(40, 2, device="cuda")).isnan()


def test_a_side_stream_is_respected():
    rows, va = torch.randn(2000, 256, device="cuda"), torch.rand(2000, 2, device="cuda")
    expected = va_supcon_loss(rows, va)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(rows)
        torch.cuda._sleep(50_000_000)
        late.copy_(rows)
        got = va_supcon_loss(late, va)
    stream.synchronize()
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("contrast", [False, True])
def test_opcheck(contrast):
    arguments = test_ops.contrastive_arguments(torch.float32, contrast=contrast, device="cuda")
    torch.library.opcheck(torch.ops.univa.contrastive_forward.default, arguments)


def test_objective_equals_the_reference_and_never_synchronises():
    generator = torch.Generator(device="cuda").manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, generator=generator, device="cuda")

    names = ("text", "audio", "vision")
    arguments = (
        tensor(32, 6),
        (tensor(32, 6) > 0).float(),
        {name: tensor(32, 768).requires_grad_() for name in names},
        {name: tensor(32, 2) for name in names},
        tensor(6, 6),
    )
    loss = UniVALoss(prior="norm", radius=0.5)
    with use_backend("reference"):
        expected = loss(*arguments).total
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = loss(*arguments).total
        got.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(got, expected)
