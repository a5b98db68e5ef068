"""The CUDA kernels and their launch code against float64 truths, on the host by tests/cuda_shim.

`test_gpu.py` holds the same backend against the same truths where there is a GPU.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import gpu_small_batch
from tests import cuda_shim
from tests.kernels import oracle, test_contrastive, test_losses, test_prior
from tests.kernels.cases import Case, cases
from univa_kernels import contrastive_terms, ops, univa_loss, use_backend, va_supcon_loss

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


def objective_inputs(
    size, depth, labels=6, dtype=torch.float32, label_dtype=torch.float32, modalities=3
):
    generator = torch.Generator().manual_seed(size + depth)
    names = ["text", "audio", "vision", *(f"other {m}" for m in range(3, modalities))]
    return {
        "logits": torch.randn(size, labels, generator=generator).to(dtype).requires_grad_(),
        "labels": torch.randint(0, 2, (size, labels), generator=generator).to(label_dtype),
        "embeddings": {
            m: torch.randn(size, depth, generator=generator).to(dtype).requires_grad_()
            for m in names
        },
        "coordinates": {m: torch.rand(size, 2, generator=generator) for m in names},
        "similarity": torch.randn(labels, labels, generator=generator).to(dtype).requires_grad_(),
        "modality_weights": {m: 0.5 + i for i, m in enumerate(names)},  # each its own
    }


def leaves_of(inputs):
    return [inputs["logits"], inputs["similarity"], *inputs["embeddings"].values()]


def objective_result(inputs, **options):
    """Every term and every gradient, in double."""
    options = {"prior": "norm", "radius": 0.3, **options}
    output = univa_loss(**inputs, **options)
    weighted = output.total + 0.5 * output.prior - 2 * output.contrastive["audio"]
    grads = torch.autograd.grad(weighted, leaves_of(inputs))
    terms = torch.stack((*output[:3], *output.contrastive.values()))
    return [terms.detach().double(), *(grad.double() for grad in grads)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_contenders_of_the_gpu_benchmark_agree(dtype):
    gpu_small_batch.check(12, 40, dtype, "cpu")  # exits where one is wrong


@pytest.mark.parametrize(
    ("eager", "graph", "plain", "missed"),
    [(60, 15, 1500, []), (150, 40, 1500, []), (151, 40, 1510, [0]), (50, 41, 499, [1, 2])],
)
def test_the_gpu_benchmark_fails_where_a_figure_is_missed(
    monkeypatch, tmp_path, capsys, eager, graph, plain, missed
):
    found = {
        "eager": {"univa": eager, "PyTorch": plain},
        "graph": {"univa": graph, "PyTorch": plain},
    }
    out = tmp_path / "figures.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu_small_batch, "measure", lambda *_: found)
    monkeypatch.setattr("sys.argv", ["gpu_small_batch", "--batch", "32", "--out", str(out)])
    if missed:
        with pytest.raises(SystemExit, match="misses what it must reach"):
            gpu_small_batch.main()
    else:
        gpu_small_batch.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if "must be" in line]
    assert [i for i, line in enumerate(lines) if line.endswith("MISSED")] == missed
    assert len(lines) == 3
    assert "microseconds" in out.read_text()


def launches_of(shim, call):
    before = shim.univa_shim_launches()
    result = call()
    return result, shim.univa_shim_launches() - before


@settings(max_examples=40, deadline=None)
@given(case=test_losses.objective_cases(dtypes=DTYPES))
def test_objective_and_gradients_match_the_truth(case):
    """All options by chance, at sizes of one launch."""
    test_losses.check_objective("cpu", **case)


@settings(max_examples=5, deadline=None)
@given(case=test_losses.objective_cases(labels=[66], dtypes=DTYPES))
def test_objective_part_by_part_matches_the_truth(case):
    test_losses.check_objective("cpu", **{**case, "size": min(case["size"], 7)})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label_dtype", [torch.bool, torch.int64, torch.float64, torch.bfloat16])
def test_one_launch_forward_and_one_backward(shim, dtype, label_dtype):
    inputs = objective_inputs(33, 50, dtype=dtype, label_dtype=label_dtype)
    output, forward = launches_of(shim, lambda: univa_loss(**inputs, prior="norm"))
    _, backward = launches_of(shim, output.total.backward)
    assert (forward, backward) == (1, 1)


@pytest.mark.parametrize(
    "label_dtype",
    [
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.float16,
        torch.bfloat16,
        torch.uint16,
    ],
)
def test_labels_of_any_type(label_dtype):
    want = objective_result(objective_inputs(9, 5))
    got = objective_result(objective_inputs(9, 5, label_dtype=label_dtype))
    assert all(map(torch.equal, got, want))


def check_objective(inputs, dtype, **options):
    """Against the reference; how many launches it took."""
    got, count = launches_of(cuda_shim.load(), lambda: objective_result(inputs, **options))
    with use_backend("reference"):
        want = objective_result(inputs, **options)
    tolerance = {torch.float64: 1e-11, torch.float32: 1e-5}.get(dtype, 2**-7)
    for ours, theirs in zip(got, want, strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()
    return count


# 66 labels are beyond one launch: the same objective, part by part.
@pytest.mark.parametrize("labels", [6, 66])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_objective_equals_the_reference_at_larger_sizes(labels, normalize, dtype):
    inputs = objective_inputs(34, 70, labels=labels, dtype=dtype)
    count = check_objective(inputs, dtype, normalize=normalize, temperature=0.2)
    assert (count == 2) == (labels == 6)


# One launch takes 8 modalities; part by part, 16 are put together at a time.
@pytest.mark.parametrize(
    ("modalities", "labels", "at_once"),
    [(1, 6, True), (3, 6, True), (8, 6, True), (3, 66, False), (9, 6, False), (20, 6, False)],
)
def test_every_modality_has_its_own_weight(modalities, labels, at_once):
    inputs = objective_inputs(9, 5, labels=labels, modalities=modalities)
    if modalities == 1:
        for key in ("embeddings", "coordinates", "modality_weights"):
            inputs[key] = {"audio": inputs[key]["audio"]}
    count = check_objective(inputs, torch.float32)
    assert (count == 2) == at_once


def plan_of(inputs, dtype, **options):
    rows, depth = inputs["embeddings"]["text"].shape
    return ops._C.launch_plan(dtype, rows, depth, inputs["logits"].shape[1], **options)


# 48 KiB is what a block has without asking, its kernel's own arrays included.
@pytest.mark.parametrize(
    ("dtype", "size", "depth"),
    [(torch.float32, 9, 1521), (torch.bfloat16, 32, 1488), (torch.float64, 9, 756)],
)
def test_one_launch_at_the_shared_memory_of_a_block_that_does_not_ask(shim, dtype, size, depth):
    inputs = objective_inputs(size, depth, dtype=dtype)
    asked = plan_of(inputs, str(dtype).removeprefix("torch."))["shared_bytes"]
    assert 48 * 1024 - 128 < asked <= 48 * 1024
    got, count = launches_of(shim, lambda: objective_result(inputs))
    assert count == 2
    assert all(result.isfinite().all() for result in got)


# A GPU of compute capability 8.6 has 99 KiB for a block. 3156 floats are exactly that.
@pytest.mark.parametrize(("depth", "at_once"), [(3156, False), (3124, True)])
def test_one_launch_leaves_room_for_the_kernels_own_arrays(shim, depth, at_once):
    limit = shim.univa_shim_shared_limit()
    inputs = objective_inputs(8, depth)
    assert at_once or plan_of(inputs, "float32")["shared_bytes"] == 99 * 1024
    shim.univa_shim_limit_shared(99 * 1024)
    try:
        got, count = launches_of(shim, lambda: objective_result(inputs))
    finally:
        shim.univa_shim_limit_shared(limit)
    assert (count == 2) == at_once
    assert all(result.isfinite().all() for result in got)


def test_what_a_step_takes_beside_its_two_launches(monkeypatch):
    # As docs/cuda.md has it; test_gpu.py asks the device itself.
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)
    inputs = objective_inputs(12, 20)

    def step():
        total = univa_loss(**inputs, prior="norm").total
        torch.autograd.grad(total, leaves_of(inputs))

    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    names = Counter(event.name for event in profile.events())
    # Autograd's gradient of the total, 1, and around it zeros for the other terms.
    assert names["aten::fill_"] == 2
    assert names["aten::copy_"] == 1
    assert names["univa_shim::objective_forward"] == names["univa_shim::objective_backward"] == 1
    writes = {"aten::mul", "aten::add", "aten::sum", "aten::clone", "aten::stack", "aten::cat"}
    assert not writes & set(names)


def test_objective_without_modalities_is_one_launch(shim):
    data = objective_inputs(5, 4)
    data |= {"embeddings": {}, "coordinates": {}, "modality_weights": None}
    output, count = launches_of(shim, lambda: univa_loss(**data, alpha=0.0))
    assert count == 1
    torch.testing.assert_close(output.total, output.classification)


def test_nan_reaches_the_objective():
    data = objective_inputs(9, 5)
    data["embeddings"]["audio"] = (
        data["embeddings"]["audio"].detach().index_fill(0, torch.tensor([3]), float("nan"))
    )
    output = univa_loss(**data, radius=2.0)
    assert output.total.isnan()
    assert output.contrastive["text"].isfinite()


@pytest.mark.parametrize("n", [40, 200])
def test_same_bits_in_whatever_order_blocks_run(shim, n):
    inputs = objective_inputs(n, 20)
    rows, va = inputs["embeddings"]["text"], inputs["coordinates"]["text"]

    def results():
        loss = va_supcon_loss(rows, va, radius=0.3)
        return [*objective_result(inputs), loss.detach(), *torch.autograd.grad(loss, rows)]

    want = results()
    shim.univa_shim_backwards(1)
    try:
        got = results()
    finally:
        shim.univa_shim_backwards(0)
    assert all(map(torch.equal, got, want))
