import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from univa.data import AuthorsNormalizer, Dialogue, Split, Utterance, VANormalizer
from univa.errors import UserError


def split_of(points):
    items = tuple(
        Utterance(
            id=f"{place}",
            dialogue_id="d",
            text="",
            labels=torch.zeros(1),
            coordinates={"audio": tuple(point)},
        )
        for place, point in enumerate(points)
    )
    return Split(name="train", dialogues=(Dialogue(id="d", utterances=items),))


@given(st.integers(2, 40), st.integers(0, 2**16), st.floats(0.01, 100), st.floats(-50, 50))
def test_normalised_scores_have_mean_0_and_std_1_on_each_axis(count, seed, scale, shift):
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    points = points * torch.tensor([scale, 1.0]) + torch.tensor([0.0, shift])
    normalizer = VANormalizer.from_coordinates({"text": points})
    normalised = normalizer.apply(points, "text")
    assert torch.allclose(normalised.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(normalised.std(0), torch.ones(2, dtype=torch.float64), atol=1e-9)


def test_the_statistics_are_those_of_the_split():
    points = [(0.0, 10.0), (1.0, 30.0), (2.0, 20.0)]
    normalizer = VANormalizer.fit(split_of(points))
    assert normalizer.mean == {"audio": (1.0, 20.0)}
    assert normalizer.std == {"audio": (1.0, 10.0)}  # unbiased
    assert normalizer.apply(torch.tensor([[3.0, 0.0]]), "audio").tolist() == [[2.0, -2.0]]


def test_bad_scores():
    with pytest.raises(UserError, match=r"audio: 1 valence-arousal score.*at least two utterances"):
        VANormalizer.fit(split_of([(0.0, 1.0)]))
    with pytest.raises(UserError, match=r"audio: every arousal score of the train split is 0\.1"):
        VANormalizer.fit(split_of([(0.0, 0.1), (1.0, 0.1), (2.0, 0.1)]))
    # The authors' statistics are of the valence column alone.
    points = torch.tensor([[0.0, 0.1], [1.0, 0.1], [2.0, 0.1]])
    assert AuthorsNormalizer().apply(points, "text")[:, 0].tolist() == [-1, 0, 1]
    for bad in (points.flip(1), points[:1]):
        with pytest.raises(UserError, match=r"valences, and these . do not differ"):
            AuthorsNormalizer().apply(bad, "text")
    with pytest.raises(UserError, match="text: NaN or infinite"):
        VANormalizer.from_coordinates({"text": torch.tensor([[0.0, 1.0], [1.0, float("nan")]])})
    normalizer = VANormalizer.fit(split_of([(0.0, 0.1), (1.0, 0.2)]))
    with pytest.raises(UserError, match=r"no statistics to normalise .* of vision"):
        normalizer.apply(torch.zeros(1, 2), "vision")
