import pytest
import torch

from univa.data import Corpus, Dialogue, Split, Utterance
from univa.errors import UserError


def utterance(name, dialogue, **changes):
    values = {
        "id": name,
        "dialogue_id": dialogue,
        "text": "words",
        "labels": torch.tensor([1.0, 0.0]),
        "coordinates": {"text": (0.5, -0.5)},
        "features": {"audio": torch.ones(3, 4)},
    }
    return Utterance(**values | changes)


def corpus(bad=None, *, labels=("happy", "sad"), **splits):
    """Three splits of one dialogue of two utterances; `bad` is put last into the test split."""
    made = {}
    for name in ("train", "valid", "test"):
        items = [utterance(f"{name}_0", name), utterance(f"{name}_1", name)]
        if bad is not None and name == "test":
            items.append(bad)
        dialogue = Dialogue(id=name, utterances=tuple(items))
        made[name] = Split(name=name, dialogues=(dialogue,))
    return Corpus(label_names=labels, **made | splits, source="here")


def test_a_split_indexes_its_utterances_in_dialogue_order():
    split = corpus().train
    assert [item.id for item in split.utterances] == ["train_0", "train_1"]
    assert len(split) == 2
    assert split.dialogue_lengths == [2]
    assert split.labels.tolist() == [[1, 0], [1, 0]]
    assert split.coordinates("text").tolist() == [[0.5, -0.5]] * 2
    assert corpus().feature_sizes == {"audio": 4}
    assert corpus().coordinate_modalities == ("text",)
    with pytest.raises(UserError, match="split 'train' has no valence-arousal scores of vision"):
        split.coordinates("vision")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": torch.tensor([1.0])},
            "1 labels but 2 label names (happy, sad); give one value per name",
        ),
        ({"labels": torch.tensor([2.0, 0.0])}, "labels must be 0 or 1, got [2.0, 0.0]"),
        (
            {"labels": torch.tensor([1, 0])},
            "labels must be a float32 vector, got torch.int64 of shape (2,)",
        ),
        (
            {"features": {"audio": torch.ones(3, 5)}},
            "audio feature size 5, but utterance 'train_0' has 4; give every utterance the same "
            "size",
        ),
        (
            {"features": {"audio": torch.ones(0, 4)}},
            "audio features must be float32 [steps >= 1, size], got torch.float32 of shape (0, 4)",
        ),
        (
            {"features": {}},
            "features of no modality, but utterance 'train_0' has features of audio; give every "
            "utterance the same",
        ),
        (
            {"features": {"audio": torch.tensor([[0.0] * 4, [0, 0, float("nan"), 0]])}},
            "NaN or infinite audio feature at step 2; remove or replace it",
        ),
        (
            {"features": {"audio": torch.full((1, 4), float("-inf"))}},
            "NaN or infinite audio feature at step 1; remove or replace it",
        ),
        (
            {"coordinates": {"text": (0.0, float("nan"))}},
            "valence-arousal score of text is (0.0, nan); give finite numbers",
        ),
        (
            {"coordinates": {}},
            "valence-arousal scores of no modality, but utterance 'train_0' has scores of text; "
            "give every utterance the same",
        ),
    ],
)
def test_a_bad_utterance_is_named(changes, message):
    with pytest.raises(UserError) as caught:
        corpus(utterance("u", "test", **changes))
    assert str(caught.value) == f"here, split 'test', utterance 'u': {message}"


def test_an_empty_split_is_named():
    with pytest.raises(UserError) as caught:
        corpus(valid=Split(name="valid", dialogues=()))
    assert str(caught.value) == ("here: split 'valid' is empty; put at least one dialogue into it")


def test_an_empty_dialogue_is_named():
    empty = Split(name="valid", dialogues=(Dialogue(id="v", utterances=()),))
    with pytest.raises(UserError, match="here, split 'valid': dialogue 'v' has no utterances"):
        corpus(valid=empty)


def test_ids_are_unique_over_splits():
    with pytest.raises(UserError, match="here: utterance id 'train_1' comes twice"):
        corpus(utterance("train_1", "test"))
    again = Split(name="valid", dialogues=corpus().train.dialogues)
    with pytest.raises(UserError, match="here: dialogue id 'train' comes twice"):
        corpus(valid=again)


def test_names_agree():
    with pytest.raises(UserError, match="'u' lies in dialogue 'test' but names 'other'"):
        corpus(utterance("u", "other"))
    with pytest.raises(UserError, match="here: the valid split is named 'test'"):
        corpus(valid=corpus().test)
    with pytest.raises(UserError, match="here: label 'sad' is named twice"):
        corpus(labels=("sad", "sad"))
    with pytest.raises(UserError, match="here: no label names"):
        corpus(labels=())
