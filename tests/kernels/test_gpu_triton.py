"""The Triton backend on a GPU, compiled: what Triton's interpreter cannot show.

`scripts/gpu_check.sh` runs it. test_triton.py runs on the GPU as well where there is one.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import univa_kernels
from tests.kernels import oracle, test_losses, test_ops
from tests.kernels.cases import Case, cases
from univa_kernels import (
    UniVALoss,
    backends,
    contrastive_terms,
    triton_tune,
    use_backend,
    va_supcon_loss,
)

REASON = univa_kernels.available_backends()["triton"]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(REASON is not None, reason=f"triton: {REASON}"),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(autouse=True)
def _triton(tmp_path, monkeypatch):
    """The backend, at its default tile sizes."""
    monkeypatch.setenv("UNIVA_CACHE_DIR", str(tmp_path))
    with use_backend("triton"):
        yield


def tensors(n, d, dtype=torch.float32, seed=0):
    generator = torch.Generator("cuda").manual_seed(seed)
    rows = torch.randn(n, d, generator=generator, device="cuda") / d**0.5
    return rows.to(dtype), torch.rand(n, 2, generator=generator, device="cuda")


def step(rows, va, **options):
    leaf = rows.detach().requires_grad_()
    losses, _ = contrastive_terms(leaf, va, **options)
    return losses.detach(), *torch.autograd.grad(losses.sum(), leaf)


def test_large_batches_take_triton_by_themselves():
    with use_backend("auto"):
        assert backends.select(torch.zeros(backends.TRITON_ROWS, 1, device="cuda")).name == "triton"


# Every case compiles kernels of its own: D, the dimensions of the coordinates and the options.
@settings(max_examples=40, deadline=None)
@given(case=cases(max_n=300, max_d=40), dtype=st.sampled_from(DTYPES))
def test_contrastive_matches_the_truth(case, dtype):
    oracle.check(case, "triton", dtype, "cuda")


@pytest.mark.parametrize(
    ("n", "d"),
    [
        (1, 1),
        (300, 1),
        (1025, 33),
        (700, 64),
        (130, 128),
        (300, 256),
        (333, 257),
        (200, 768),
        (64, 4096),
        (129, 4095),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cross", [False, True])
def test_odd_sizes_match_the_truth(n, d, dtype, cross):
    generator = torch.Generator().manual_seed(n)
    rows = torch.randn(n, d, generator=generator).double() / d**0.5
    extra = {}
    if cross:
        other = torch.randn(n + 37, d, generator=generator).double() / d**0.5
        va = torch.rand(n + 37, 2, generator=generator)
        extra = {"contrast_embeddings": other, "contrast_coordinates": va}
    options = {"temperature": 0.5, "radius": 0.1}
    case = Case(rows, torch.rand(n, 2, generator=generator), options, extra)
    oracle.check(case, "triton", dtype, "cuda")


@settings(max_examples=20, deadline=None)
@given(case=test_losses.objective_cases(labels=[1, 6, 65], dtypes=DTYPES))
def test_objective_and_gradients_match_the_truth(case):
    test_losses.check_objective("triton", **case, device="cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "d"), [(5000, 128), (5000, 768), (33000, 64), (33000, 320)])
def test_many_panels_chunks_and_blocks_equal_the_cuda_backend(n, d, dtype):
    """From 32768 rows on samples are sorted by their coordinates."""
    rows, va = tensors(n, d, dtype)
    got = step(rows, va, radius=0.05, temperature=0.2)
    with use_backend("cuda"):
        want = step(rows, va, radius=0.05, temperature=0.2)
    room = 1e-4 if dtype == torch.float32 else 2e-2
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).abs().max() <= room * theirs.abs().max()


def test_offsets_beyond_32_bits():
    """A contrast set of more than 2^31 numbers: its last rows count, and get gradients."""
    if torch.cuda.get_device_properties(0).total_memory < 30 << 30:
        pytest.skip("needs 30 GB")
    rows, va = tensors(70, 4096, torch.bfloat16)
    bank = torch.zeros(2**31 // 4096 + 1000, 4096, dtype=torch.bfloat16, device="cuda")
    bank_va = torch.full((len(bank), 2), 9.0, device="cuda")
    bank[-70:], bank_va[-70:] = rows, va
    leaves = [bank.requires_grad_(), bank[-70:].detach().clone().requires_grad_()]
    # The small set lacks the zeros, each of which adds exp(0) to Z.
    losses, _ = contrastive_terms(
        rows, va, contrast_embeddings=leaves[0], contrast_coordinates=bank_va, radius=0.2
    )
    logits = (rows.double() @ leaves[1].double().T) / 0.7
    near = (torch.cdist(va.double(), va.double()) < 0.2).double()
    zeros = torch.full((70, 1), len(bank) - 70.0, dtype=torch.float64, device="cuda").log()
    want = torch.cat([logits, zeros], 1).logsumexp(1) - (near * logits).sum(1) / near.sum(1)
    torch.testing.assert_close(losses.double(), want, rtol=1e-4, atol=1e-4)
    (got,) = torch.autograd.grad(losses.sum(), leaves[0])
    (true,) = torch.autograd.grad(want.sum(), leaves[1])
    torch.testing.assert_close(got[-70:], true, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("d", [64, 320])
def test_same_bits_on_every_repeat(d):
    rows, va = tensors(3000, d, torch.bfloat16)
    runs = [step(rows, va) for _ in range(5)]
    for run in runs[1:]:
        assert all(map(torch.equal, run, runs[0]))


@pytest.mark.parametrize("d", [64, 320])
def test_unaligned_rows_give_the_same_bits(d):
    rows, va = tensors(300, d, torch.bfloat16)
    unaligned = torch.zeros(300 * d + 1, dtype=rows.dtype, device="cuda")[1:].view(300, d)
    assert all(map(torch.equal, step(rows, va), step(unaligned.copy_(rows), va)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("d", [64, 320])
def test_tensors_of_another_than_the_current_device(d):
    rows, va = tensors(300, d)
    expected = step(rows, va)
    for ours, theirs in zip(step(rows.to("cuda:1"), va.to("cuda:1")), expected, strict=True):
        torch.testing.assert_close(ours.to("cuda:0"), theirs)


@pytest.mark.parametrize("d", [64, 320])
def test_no_synchronisation_and_a_captured_step_replays(d):
    rows, va = tensors(3000, d, torch.bfloat16)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(rows, va)  # compiles
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(rows, va)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(rows, va)
    for _ in range(2):
        rows.mul_(0.5)
        graph.replay()
        assert all(map(torch.equal, captured, step(rows, va)))


def test_objective_equals_the_reference_at_a_large_batch():
    generator = torch.Generator("cuda").manual_seed(0)

    def tensor(*shape):
        return torch.randn(shape, generator=generator, device="cuda")

    names = ("text", "audio", "vision")
    rows = {name: (tensor(1000, 320) / 18).requires_grad_() for name in names}
    va = {name: tensor(1000, 2) for name in names}
    logits, labels, similarity = tensor(1000, 6), (tensor(1000, 6) > 0).float(), tensor(6, 6)
    loss = UniVALoss(prior="norm", radius=0.5)

    def run():
        total = loss(logits, labels, rows, va, similarity).total
        return total.detach(), *torch.autograd.grad(total, list(rows.values()))

    with use_backend("reference"):
        expected = run()
    for ours, theirs in zip(run(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("contrast", [False, True])
def test_opcheck(contrast):
    def with_sets(value):
        return value[None].detach() if isinstance(value, torch.Tensor) else value

    arguments = test_ops.contrastive_arguments(torch.float32, contrast=contrast, device="cuda")
    learned = arguments[6]
    given_sets = [*map(with_sets, arguments[:6]), learned, *arguments[7:]]
    given_sets[0].requires_grad_()
    torch.library.opcheck(torch.ops.univa_triton.contrastive_forward.default, tuple(given_sets))


@pytest.mark.parametrize("d", [64, 320])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_eager_at_two_sizes(d, dtype):
    torch._dynamo.reset()

    @torch.compile(fullgraph=True)
    def loss(rows, va):
        return va_supcon_loss(rows, va, radius=0.1)

    for n in (600, 1100):
        rows, va = tensors(n, d, dtype)
        leaf = rows.requires_grad_()
        got = loss(leaf, va)
        want = va_supcon_loss(leaf, va, radius=0.1)
        torch.testing.assert_close(got, want)
        grads = [torch.autograd.grad(value, leaf)[0] for value in (got, want)]
        torch.testing.assert_close(*grads)


@pytest.mark.parametrize("dim", [128, 320])
def test_tuning_measures_and_every_candidate_holds(dim):
    from univa_kernels._triton import choice, configs

    rows, va = tensors(1000, dim, torch.bfloat16)
    want = step(rows, va)
    lines = []
    best = triton_tune(1000, dim, torch.bfloat16, show=lines.append)
    assert len(best) == 2
    assert any(" ms" in line for line in lines)
    for ours, theirs in zip(step(rows, va), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)
    kernels = ("forward", "gradient_rows" if dim <= 256 else "gradient_block")
    capability = torch.cuda.get_device_capability()
    for kernel, place in itertools.product(kernels, range(8)):
        tried = configs.candidates(kernel, "half", dim, capability)
        if place < len(tried) and any(f"{kernel}: {tried[place]}: " in line for line in lines):
            if any(f"{kernel}: {tried[place]}: does not run" in line for line in lines):
                continue
            with choice.forced(kernel, tried[place]):
                got = step(rows, va)
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)
