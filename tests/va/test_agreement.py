import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from univa.va.agreement import concordance, pearson
from univa.va.fit import regression_loss


def _concordance(p: np.ndarray, t: np.ndarray) -> float:
    """Lin (1989), from the textbook formula."""
    covariance = np.cov(p, t, bias=True)
    return 2 * covariance[0, 1] / (p.var() + t.var() + (p.mean() - t.mean()) ** 2)


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(3, 200),
    seed=st.integers(0, 10_000),
    scale=st.floats(1e-3, 1e3),
    shift=st.floats(-10, 10),
)
def test_agree_with_numpy(n, seed, scale, shift):
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=(n, 2))
    predictions = scale * (targets + rng.normal(size=(n, 2))) + shift
    p, t = torch.from_numpy(predictions), torch.from_numpy(targets)
    expected_ccc = [_concordance(predictions[:, k], targets[:, k]) for k in range(2)]
    expected_r = [np.corrcoef(predictions[:, k], targets[:, k])[0, 1] for k in range(2)]
    torch.testing.assert_close(concordance(p, t), torch.tensor(expected_ccc, dtype=torch.float64))
    torch.testing.assert_close(pearson(p, t), torch.tensor(expected_r, dtype=torch.float64))


def test_scale_and_offset_count_for_concordance_only():
    targets = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ones = torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(concordance(targets, targets), ones)
    torch.testing.assert_close(concordance(-targets + 2 * targets.mean(0), targets), -ones)
    torch.testing.assert_close(pearson(3 * targets + 1, targets), ones)
    assert bool((concordance(3 * targets + 1, targets) < 0.9).all())


def test_constant_columns_give_zero_and_a_finite_gradient():
    predictions = torch.ones(4, 2, requires_grad=True)
    targets = torch.ones(4, 2)
    assert concordance(predictions, targets).tolist() == [0, 0]
    assert pearson(predictions.detach(), targets).tolist() == [0, 0]
    concordance(predictions, targets).sum().backward()
    assert predictions.grad is not None
    assert bool(predictions.grad.isfinite().all())


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_loss_is_the_stated_mix_and_its_gradient_is_right(weight):
    generator = torch.Generator().manual_seed(1)
    predictions, targets = torch.randn(2, 20, 2, dtype=torch.float64, generator=generator)
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    expected = 0.0
    for k in range(2):
        p, t = predictions[:, k].numpy(), targets[:, k].numpy()
        squared = (((p - t) / scale[k].item()) ** 2).mean()
        expected += ((1 - weight) * squared + weight * (1 - _concordance(p, t))) / 2
    loss = regression_loss(predictions, targets, scale, weight)
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    predictions.requires_grad_()
    torch.autograd.gradcheck(lambda p: regression_loss(p, targets, scale, weight), (predictions,))
