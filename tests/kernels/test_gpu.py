"""The kernel tests on CUDA tensors: what `scripts/gpu_check.sh` runs where there is a GPU."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels import oracle, test_losses, test_ops, test_prior
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


@pytest.mark.parametrize("backend", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_own_copies_of_a_constant_set(backend, dtype):
    generator = torch.Generator().manual_seed(0)
    for n, d in ((32, 768), (130, 70)):
        rows = torch.randn(n, d, generator=generator).double() / d**0.5
        case = Case(rows, torch.rand(n, 2, generator=generator), {"radius": 0.1})
        oracle.check_tied(case, backend, dtype, 5000, 4321, "cuda")


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


# 65 labels and more are beyond one launch: part by part.
@settings(max_examples=60, deadline=None)
@given(case=test_losses.objective_cases(labels=[1, 2, 3, 6, 7, 64, 65, 80], dtypes=DTYPES))
def test_objective_and_gradients_match_the_truth(case):
    test_losses.check_objective("cuda", **case, device="cuda")


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


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_side_stream_is_respected(backend):
    rows, va = torch.randn(2000, 256, device="cuda"), torch.rand(2000, 2, device="cuda")
    with use_backend(backend):
        expected = va_supcon_loss(rows, va)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), use_backend(backend):
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


def objective_step(batch, dtype=torch.float32, depth=768):
    """A step of the whole loss on fixed inputs, and those inputs."""
    generator = torch.Generator().manual_seed(batch)
    names = ("text", "audio", "vision")

    def tensor(*shape):
        return torch.randn(shape, generator=generator).to("cuda", dtype).requires_grad_()

    logits, similarity = tensor(batch, 6), tensor(6, 6)
    labels = torch.randint(0, 2, (batch, 6), generator=generator).cuda()
    rows = {name: tensor(batch, depth) for name in names}
    va = {name: torch.rand(batch, 2, generator=generator).cuda() for name in names}
    loss = UniVALoss(prior="norm", radius=0.3)
    leaves = [logits, similarity, *rows.values()]

    def step():
        total = loss(logits, labels, rows, va, similarity).total
        return (total.detach(), *torch.autograd.grad(total, leaves))

    return step, leaves


# Dynamic shared memory just within 48 KiB, which with the kernels' own arrays is beyond it.
@pytest.mark.parametrize(
    ("dtype", "batch", "depth", "tolerance"),
    [
        (torch.float32, 9, 1521, 1e-3),
        (torch.bfloat16, 32, 1488, 3e-2),
        (torch.float64, 9, 756, 1e-10),
    ],
)
def test_one_launch_at_the_shared_memory_of_a_block_that_does_not_ask(
    dtype, batch, depth, tolerance
):
    step, _ = objective_step(batch, dtype, depth)
    got = step()
    with use_backend("reference"):
        want = step()
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


# 32 is one launch each way; 700 goes part by part, in tiles.
@pytest.mark.parametrize("batch", [12, 32, 256, 700])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_captured_step_replays_on_new_values(batch, dtype):
    step, leaves = objective_step(batch, dtype)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for scale in (1.0, 0.5, -2.0):
        with torch.no_grad():
            for leaf in leaves:
                leaf.mul_(scale)
        graph.replay()
        graph.replay()  # the last block's ticket begins at 0 again
        assert all(map(torch.equal, captured, step()))


def test_the_whole_loss_is_one_kernel_each_way():
    step, _ = objective_step(32)
    step()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        step()
        torch.cuda.synchronize()
    # All that the device did. The ticket is reset; autograd begins with a gradient of 1, which is
    # padded to those of all terms: docs/cuda.md says so.
    allowed = {
        "fused_forward_kernel": 1,
        "fused_backward_kernel": 1,
        "Memset|FillFunctor": 3,
        "Memcpy DtoD|copy_kernel": 1,
    }
    names = [e.name for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    found = {kind: [name for name in names if re.search(kind, name)] for kind in allowed}
    assert len(found["fused_forward_kernel"]) == len(found["fused_backward_kernel"]) == 1, names
    assert all(len(found[kind]) <= most for kind, most in allowed.items()), names
    assert sum(map(len, found.values())) == len(names), names


def test_launches_on_two_streams_do_not_disturb_each_other():
    steps = [objective_step(batch)[0] for batch in (32, 64)]
    expected = [step() for step in steps]
    streams = [torch.cuda.Stream() for _ in steps]
    torch.cuda.synchronize()
    for _ in range(50):
        got = []
        for step, stream in zip(steps, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(step())
        torch.cuda.synchronize()
        for ours, want in zip(got, expected, strict=True):
            assert all(map(torch.equal, ours, want))


@pytest.mark.parametrize("dtype", DTYPES)
def test_unaligned_rows_give_the_same_bits(dtype):
    plain = torch.randn(70, 40, device="cuda").to(dtype)
    va = torch.rand(70, 2, device="cuda")
    unaligned = torch.zeros(70 * 40 + 1, dtype=dtype, device="cuda")[1:].view(70, 40).copy_(plain)
    results = []
    for rows in (plain.requires_grad_(), unaligned.requires_grad_()):
        loss = va_supcon_loss(rows, va, radius=0.3)
        results.append((loss, *torch.autograd.grad(loss, rows)))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_tensor_float32_is_taken_where_torch_allows_it(backend):
    case = Case(torch.randn(300, 64).double(), torch.rand(300, 2), {"radius": 0.3})
    truth = oracle.expected(case, torch.float32)
    before = torch.backends.cuda.matmul.allow_tf32
    errors = {}
    try:
        for allowed in (False, True):
            torch.backends.cuda.matmul.allow_tf32 = allowed
            losses = oracle.evaluate(case, backend, torch.float32, "cuda").losses
            errors[allowed] = (losses.double().cpu() - truth.losses).abs().max().item()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    assert errors[False] < errors[True] < 0.1
