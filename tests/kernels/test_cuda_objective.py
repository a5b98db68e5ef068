"""The whole objective by the CUDA kernels, in one launch each way and part by part, on the host."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings

from benchmarks import gpu_small_batch
from tests import cuda_shim
from tests.kernels import test_cuda, test_losses
from univa_kernels import ops, univa_loss, use_backend, va_supcon_loss

DTYPES = test_cuda.DTYPES
shim = test_cuda.shim  # inside this file, too, the backend "cpu" is the CUDA sources


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


@settings(max_examples=4, deadline=None)
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
