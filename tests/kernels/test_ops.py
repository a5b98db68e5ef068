"""The registered operators: opcheck, tracing, compilation."""

import itertools

import pytest
import torch

from univa_kernels import ops, reference, univa_loss, va_supcon_loss
from univa_kernels.reference import accumulate_dtype

pytestmark = pytest.mark.skipif(ops.LOAD_ERROR is not None, reason=f"{ops.LOAD_ERROR}")


def contrastive_arguments(dtype, *, contrast, device="cpu"):
    generator = torch.Generator().manual_seed(1)

    def tensor(*shape):
        return torch.randn(shape, generator=generator).to(device, dtype)

    anchors = tensor(9, 5).requires_grad_()
    points = torch.rand(9, 2, generator=generator).to(device)
    groups = torch.arange(9, device=device) // 3
    if not contrast:
        options = (0.5, 0.4, 0.0, 0.5, 0, False, True)
        return (anchors, None, points, None, None, None, None, *options)
    others = tensor(7, 5).requires_grad_()
    other_points = torch.rand(7, 2, generator=generator).to(device)
    learned = torch.tensor(0.5, device=device, dtype=accumulate_dtype(dtype)).requires_grad_()
    options = (1.0, 0.4, 0.3, 0.0, None, True, False)
    return (anchors, others, points, other_points, groups, groups[:7], learned, *options)


def objective_arguments(dtype, *, modalities, learned, prior, device="cpu"):
    generator = torch.Generator().manual_seed(3)

    def tensor(*shape):
        return torch.randn(shape, generator=generator).to(device, dtype).requires_grad_()

    temperature = torch.tensor(0.5, device=device, dtype=accumulate_dtype(dtype)).requires_grad_()
    return (
        tensor(6, 4),
        (tensor(6, 4) > 0).to(device),
        tensor(4, 4) if prior != "none" else None,
        [tensor(6, 5 + m) for m in range(modalities)],
        [torch.rand(6, 2, generator=generator).to(device) for _ in range(modalities)],
        [1.0 + m for m in range(modalities)],
        temperature if learned else None,
        0.7,
        0.4,
        0.0,
        0.3,
        0.5,
        True,
        False,
        "kl",
        prior,
    )


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_contrastive_opcheck(dtype, contrast):
    arguments = contrastive_arguments(dtype, contrast=contrast)
    torch.library.opcheck(torch.ops.univa.contrastive_forward.default, arguments)
    detached = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    losses, stats = torch.ops.univa.contrastive_forward(*detached)
    backward = (torch.rand_like(losses), *detached[:7], stats, *detached[7:])
    for wanted in itertools.product([True, False], repeat=2):
        torch.library.opcheck(torch.ops.univa.contrastive_backward.default, (*backward, *wanted))


@pytest.mark.parametrize("form", ["quadratic", "norm"])
def test_prior_opcheck(form):
    predictions = torch.randn(6, 4, requires_grad=True)
    similarity = torch.randn(4, 4, requires_grad=True)
    torch.library.opcheck(
        torch.ops.univa.correlation_prior_forward.default, (predictions, similarity, form)
    )
    torch.library.opcheck(
        torch.ops.univa.correlation_prior_backward.default,
        (torch.rand(()), predictions.detach(), similarity.detach(), form),
    )


@pytest.mark.parametrize(
    ("modalities", "learned", "prior"),
    [(3, False, "norm"), (1, True, "quadratic"), (0, False, "none")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_objective_opcheck(dtype, modalities, learned, prior):
    arguments = objective_arguments(dtype, modalities=modalities, learned=learned, prior=prior)
    torch.library.opcheck(torch.ops.univa.objective_forward.default, arguments)


def test_statistics_carry_no_gradient():
    losses, stats = torch.ops.univa.contrastive_forward(
        *contrastive_arguments(torch.float32, contrast=False)
    )
    assert losses.requires_grad
    assert not stats.requires_grad


@pytest.mark.parametrize("learned", [False, True])
def test_statistics_are_those_of_the_reference(learned):
    arguments = list(contrastive_arguments(torch.float64, contrast=learned))
    with torch.no_grad():
        _, want = reference.contrastive(*arguments)
        _, stats = torch.ops.univa.contrastive_forward(*arguments)
    kept = 4 if learned else 3
    torch.testing.assert_close(stats[:kept], want[:kept])


def test_compiles_into_one_graph_for_any_batch_size():
    compiled = torch.compile(va_supcon_loss, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (8, 13, 21):
        rows, va = torch.randn(size, 6, requires_grad=True), torch.rand(size, 2)
        loss = compiled(rows, va, radius=0.4)
        (grad,) = torch.autograd.grad(loss, rows)
        eager = va_supcon_loss(rows, va, radius=0.4)
        torch.testing.assert_close(loss, eager)
        torch.testing.assert_close(grad, torch.autograd.grad(eager, rows)[0])


def test_the_objective_is_one_call_forward_and_one_backward():
    rows = torch.randn(3, 8, 6, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        univa_loss(
            torch.randn(8, 4, requires_grad=True),
            torch.ones(8, 4),
            rows,
            torch.rand(3, 8, 2),
            torch.eye(4),
            prior="norm",
        ).total.backward()
    calls = {event.key: event.count for event in profile.key_averages()}
    assert {k: v for k, v in calls.items() if k.startswith("univa::")} == {
        "univa::objective_forward": 1,
        "univa::objective_backward": 1,
    }


def test_the_whole_objective_compiles():
    compiled = torch.compile(univa_loss, fullgraph=True, backend="aot_eager")
    rows = {"text": torch.randn(8, 6), "audio": torch.randn(8, 6)}
    va = {"text": torch.rand(8, 2), "audio": torch.rand(8, 2)}
    arguments = (torch.randn(8, 4), torch.randint(2, (8, 4)), rows, va, torch.randn(4, 4))
    torch.testing.assert_close(
        compiled(*arguments, prior="norm").total, univa_loss(*arguments, prior="norm").total
    )


@pytest.mark.parametrize("value", [0.0, -0.5, float("inf")])
def test_a_learned_temperature_that_is_not_positive_is_refused_on_the_cpu(value):
    with pytest.raises(RuntimeError, match="temperature must be positive and finite"):
        va_supcon_loss(torch.randn(4, 3), torch.rand(4, 2), temperature=torch.tensor(value))


def test_a_second_derivative_by_transforms_is_refused():
    rows, va = torch.randn(4, 3), torch.rand(4, 2)

    def of_rows(leaf):
        return torch.func.grad(lambda inner: va_supcon_loss(inner, va, radius=0.5))(leaf).sum()

    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.func.grad(of_rows)(rows)
