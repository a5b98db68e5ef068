import pytest
import torch

from univa.batch import MODALITIES
from univa.data import FILLER_WORDS, WORD_COORDINATES, synthetic_corpus
from univa.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus()


def same(left, right):
    return (
        left.id == right.id
        and left.text == right.text
        and left.coordinates == right.coordinates
        and torch.equal(left.labels, right.labels)
        and all(torch.equal(left.features[m], right.features[m]) for m in MODALITIES)
    )


def test_the_seed_decides_everything(corpus):
    again = synthetic_corpus()
    pairs = zip(again.train.utterances, corpus.train.utterances, strict=True)
    assert all(same(left, right) for left, right in pairs)
    other = synthetic_corpus(seed=2, train_dialogues=2, valid_dialogues=1, test_dialogues=1)
    assert not same(other.train.utterances[0], corpus.train.utterances[0])


def test_splits_do_not_depend_on_each_others_size(corpus):
    small = synthetic_corpus(train_dialogues=3, valid_dialogues=1, test_dialogues=2)
    assert [len(split.dialogues) for split in small.splits.values()] == [3, 1, 2]
    for name, split in small.splits.items():
        full = corpus.splits[name].utterances
        pairs = zip(split.utterances, full, strict=False)
        assert all(same(left, right) for left, right in pairs)


def test_shapes_and_ranges(corpus):
    assert [len(split.dialogues) for split in corpus.splits.values()] == [240, 40, 60]
    assert corpus.feature_sizes == {"text": 32, "audio": 24, "vision": 20}
    assert corpus.coordinate_modalities == MODALITIES
    assert {len(d.utterances) for d in corpus.train.dialogues} == set(range(4, 13))
    for modality, (low, high) in {"text": (4, 12), "audio": (6, 20), "vision": (4, 12)}.items():
        steps = {len(u.features[modality]) for u in corpus.train.utterances}
        assert steps == set(range(low, high + 1))
        assert corpus.train.coordinates(modality).abs().max() <= 1
    for item in corpus.test.utterances:
        words = item.text.split()
        assert len(words) == len(item.features["text"])
        assert {*words} <= {*WORD_COORDINATES, *FILLER_WORDS}
        assert 1 <= sum(word in WORD_COORDINATES for word in words) <= 3


def test_one_word_has_one_vector(corpus):
    vectors = {}
    for item in corpus.valid.utterances:
        for word, vector in zip(item.text.split(), item.features["text"], strict=True):
            assert torch.equal(vectors.setdefault(word, vector), vector)
    assert len({tuple(vector.tolist()) for vector in vectors.values()}) == len(vectors)


def test_word_list():
    assert 80 <= len(WORD_COORDINATES) <= 120
    assert all(abs(v) <= 1 and abs(a) <= 1 for v, a in WORD_COORDINATES.values())
    assert not {*WORD_COORDINATES} & {*FILLER_WORDS}


def test_labels_are_several_one_or_none(corpus):
    for split in corpus.splits.values():
        counts = split.labels.sum(1)
        assert (counts == 0).float().mean() > 0.1
        assert (counts == 1).float().mean() > 0.2
        assert (counts >= 2).float().mean() > 0.2
        assert split.labels.mean(0).min() > 0.1
        assert split.labels.mean(0).max() < 0.4


def test_dialogues_are_smooth_and_modalities_sometimes_discordant(corpus):
    points = {m: corpus.train.coordinates(m) for m in MODALITIES}
    apart = (points["audio"] - points["vision"]).norm(dim=1)
    # 3 noise standard deviations of the difference: beyond lies what is discordant.
    far = (apart > 3 * 0.15 * 2**0.5).float().mean()
    assert 0.15 < far < 0.4  # 36 % have one or the other discordant; some fall near by chance
    concordant = synthetic_corpus(discordance=0, train_dialogues=40)
    difference = concordant.train.coordinates("audio") - concordant.train.coordinates("vision")
    assert (difference.norm(dim=1) > 5 * 0.15 * 2**0.5).sum() == 0
    mood = torch.stack(list(points.values())).median(dim=0).values
    lengths = corpus.train.dialogue_lengths
    steps = torch.cat([(d[1:] - d[:-1]).norm(dim=1) for d in mood.split(lengths)])
    shuffled = mood[torch.randperm(len(mood), generator=torch.Generator().manual_seed(0))]
    assert steps.mean() < 0.75 * (shuffled[1:] - shuffled[:-1]).norm(dim=1).mean()


def test_half_of_the_discordance_is_a_turn_of_the_valence():
    clear = synthetic_corpus(noise=0, train_dialogues=100).train
    text, audio, vision = (clear.coordinates(m) for m in MODALITIES)
    odd = (text == vision).all(dim=1) & (audio != text).any(dim=1)  # the mood, and audio apart
    assert odd.sum() > 50
    turned = (audio[odd] == text[odd] * torch.tensor([-1.0, 1.0])).all(dim=1)
    assert 0.35 < turned.float().mean() < 0.65


def ridge_scores(corpus, modalities):
    """Test micro-F1 (in percent) of ridge regression on mean features, threshold from valid."""

    def design(split):
        means = [
            torch.cat([item.features[m].mean(0) for m in modalities]) for item in split.utterances
        ]
        stacked = torch.stack(means).double()
        return torch.cat([stacked, torch.ones(len(stacked), 1, dtype=torch.float64)], dim=1)

    features, labels = design(corpus.train), corpus.train.labels.double()
    gram = features.T @ features + torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, features.T @ labels)
    thresholds = torch.linspace(0.05, 0.7, 27)
    valid = design(corpus.valid) @ weights
    best = max(thresholds, key=lambda t: micro_f1(valid > t, corpus.valid.labels))
    return micro_f1(design(corpus.test) @ weights > best, corpus.test.labels)


def micro_f1(predictions, labels):
    hits = (predictions * labels).sum()
    return float(200 * hits / (predictions.sum() + labels.sum()))


def test_modalities_can_be_learnt_and_know_more_together(corpus):
    majority = torch.zeros_like(corpus.test.labels)
    majority[:, corpus.train.labels.mean(0).argmax()] = 1
    baseline = max(
        micro_f1(majority, corpus.test.labels),
        micro_f1(torch.ones_like(majority), corpus.test.labels),
    )
    alone = [ridge_scores(corpus, (modality,)) for modality in MODALITIES]
    together = ridge_scores(corpus, MODALITIES)
    assert min(alone) > baseline + 15
    assert together > max(alone) + 2
    assert together < 90


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_dialogues": 0}, "train_dialogues must be at least 1, got 0"),
        ({"mean_utterances": 0}, "mean_utterances must be at least 1, got 0"),
        ({"audio_size": 0}, "audio_size must be at least 1, got 0"),
        ({"discordance": 1.5}, r"discordance must be in 0\.\.1, got 1\.5"),
        ({"discordance": float("nan")}, r"discordance must be in 0\.\.1, got nan"),
        ({"noise": float("inf")}, "noise must be finite and at least 0, got inf"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(UserError, match=message):
        synthetic_corpus(**options)
