"""The maps' numbers, against loops over all pairs."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from univa.figures import quality
from univa.figures.quality import measure


def ranks(values: list[float]) -> list[float]:
    """Average ranks, by counting."""
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
        for value in values
    ]


def brute(embeddings: torch.Tensor, points: torch.Tensor, k: int, radius: float):
    e, v = embeddings.double().numpy(), points.double().numpy()
    size = len(e)
    cosine = [[1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b)) for b in e] for a in e]
    va = [[math.dist(a, b) for b in v] for a in v]
    shares = []
    for i in range(size):
        near = sorted((j for j in range(size) if j != i), key=lambda j: cosine[i][j])[:k]
        shares.append(sum(va[i][j] < radius for j in near) / len(near))
    pairs = list(itertools.combinations(range(size), 2))
    chance = sum(va[i][j] < radius for i, j in pairs) / len(pairs)
    first = ranks([round(cosine[i][j], 12) for i, j in pairs])
    second = ranks([va[i][j] for i, j in pairs])
    return sum(shares) / size, chance, float(np.corrcoef(first, second)[0, 1])


@settings(max_examples=20, deadline=None)
@given(
    size=st.integers(3, 24),
    k=st.integers(1, 30),
    radius=st.sampled_from([0.1, 0.8, 5.0]),
    seed=st.integers(0, 99),
)
def test_against_loops(size: int, k: int, radius: float, seed: int):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(size, 5, generator=generator)
    points = embeddings[:, :2] + 0.5 * torch.randn(size, 2, generator=generator)
    found = measure(embeddings, points, neighbors=k, radius=radius)
    purity, chance, correlation = brute(embeddings, points, min(k, size - 1), radius)
    assert found.purity == pytest.approx(purity)
    assert found.chance == pytest.approx(chance)
    assert found.rank_correlation == pytest.approx(correlation, abs=1e-9)
    assert found.neighbors == min(k, size - 1)
    assert found.pairs == size * (size - 1) // 2


def test_extremes():
    angles = torch.linspace(0, 1.2, 40).square()  # so that no two pairs are equally far apart
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    line = torch.stack([angles, angles], 1)
    # Neighbours on the circle are neighbours on the line; lengths of embeddings do not matter.
    found = measure(circle * torch.rand(40, 1).add(0.5), line, neighbors=2, radius=0.3)
    assert found.purity == 1
    assert found.rank_correlation == pytest.approx(1, abs=1e-5)  # float32 cosines of near points
    same = measure(circle, torch.zeros(40, 2), radius=0.1)
    assert (same.purity, same.chance, same.rank_correlation) == (1, 1, None)


def test_a_sample_of_pairs_is_near_the_whole():
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(300, 8, generator=generator)
    points = embeddings[:, :2] + torch.randn(300, 2, generator=generator)
    whole = measure(embeddings, points)
    some = measure(embeddings, points, max_pairs=20_000)
    assert (whole.pairs, some.pairs) == (44_850, 20_000)
    assert some.rank_correlation == pytest.approx(whole.rank_correlation, abs=0.02)
    assert some == measure(embeddings, points, max_pairs=20_000)  # the draw is fixed


def test_nothing_of_all_pairs_is_held(monkeypatch):
    sizes = []
    plain = torch.cdist

    def counted(a, b):
        sizes.append(len(a) * len(b))
        return plain(a, b)

    monkeypatch.setattr(torch, "cdist", counted)
    monkeypatch.setattr(quality, "_BLOCK", 64)
    points = torch.randn(500, 2)
    found = measure(torch.randn(500, 4), points, max_pairs=1000, radius=0.5)
    assert max(sizes) <= 64 * 500
    apart = [math.dist(a, b) < 0.5 for a, b in itertools.combinations(points.tolist(), 2)]
    assert found.chance == pytest.approx(sum(apart) / len(apart), abs=1e-4)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"S >= 2"):
        measure(torch.randn(1, 3), torch.randn(1, 2))
    with pytest.raises(ValueError, match=r"\[3, 1\]"):
        measure(torch.randn(3, 3), torch.randn(3, 1))
