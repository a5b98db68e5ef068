"""Features of the authors' layout, and what is wrong with them."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.layout import PARTS, features_of, write_layout
from univa.data import read_authors
from univa.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_layout(tmp_path)


def change(folder: Path, modality: str = "audio", split: str = "train", **parts) -> Path:
    """Replace parts of one feature file."""
    content = {**features_of(folder, split, modality), **parts}
    content = {k: v for k, v in content.items() if v is not None}
    part, name = PARTS[modality]
    path = folder / "preprocess_data/final_feat" / part / f"MOSEI_{split}_{name}_VA.pkl"
    path.write_bytes(pickle.dumps({split: content}, protocol=4))
    return path


def read_everything(folder: Path, **options) -> None:
    for split in read_authors(folder, **options).splits.values():
        for utterance in split.utterances:
            dict(utterance.features)


def error_of(folder: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read_everything(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("text", ["tokens", "vectors"])
def test_own_steps_of_every_utterance(folder, text):
    corpus = read_authors(folder, text=text)
    assert corpus.feature_sizes.get("text") == (300 if text == "vectors" else None)
    for name, split in corpus.splits.items():
        for modality in corpus.feature_sizes:
            content = features_of(folder, name, modality)
            for row, utterance in enumerate(split.utterances):
                steps = int(content[f"{modality}_utt_mask"][row].sum())
                expected = torch.from_numpy(content[modality][row, :steps])
                assert torch.equal(utterance.features[modality], expected)
                points = content[f"{modality}_VA_values"][row]
                assert utterance.coordinates[modality] == tuple(points)
    assert corpus.longest("audio") <= 6


def test_only_what_is_asked_for_is_read(folder):
    for path in (folder / "preprocess_data/final_feat/V").iterdir():
        path.unlink()
    assert set(read_authors(folder, modalities=("text", "audio")).feature_sizes) == {"audio"}
    message = error_of(folder)
    assert "no file *_train_vision_utt_VA.pkl" in message
    assert "take vision out of --model.modalities" in message


def test_a_sequence_without_a_step_is_one_step_of_zeros(folder):
    mask = features_of(folder, "train", "audio")["audio_utt_mask"]
    mask[1] = 0
    values = features_of(folder, "train", "audio")["audio"]
    values[1] = 0
    change(folder, audio_utt_mask=mask, audio=values)
    steps = read_authors(folder).train.utterances[1].features["audio"]
    assert torch.equal(steps, torch.zeros(1, 12))


def test_mistakes_are_named(folder):
    good = features_of(folder, "train", "audio")
    huge = ["x"]
    for _ in range(30):  # 2^30 leaves in a file of a few hundred bytes
        huge = [huge, huge]
    cases = [
        ({"audio_VA_values": [huge] * 9}, "must be 9 pairs"),
        ({"audio_VA_values": [["a", "b"]] * 9}, "must be 9 pairs"),
        ({"audio_VA_values": None}, "no 'audio_VA_values' in it"),
        ({"audio": [1, 2]}, "'audio' must be an array"),
        ({"audio": good["audio"][:-1]}, "8 utterances, but the structure file has 9"),
        ({"audio_utt_mask": good["audio_utt_mask"][:, :-1]}, "must be of shape (9, 6)"),
        ({"audio_utt_mask": good["audio_utt_mask"][:, ::-1] + 0}, "is not ones and then zeros"),
        ({"audio_VA_values": [[1, 2]]}, "must be 9 pairs"),
        ({"labels_class": 1 - good["labels_class"]}, "its labels are not those of split 'train'"),
        ({"audio": np.full_like(good["audio"], np.nan)}, "NaN or infinite feature in sequence 0"),
    ]
    for parts, said in cases:
        path = change(folder, **{**good, **parts})
        message = error_of(folder)
        assert message.startswith(f"{path}: ")
        assert said in message, message
