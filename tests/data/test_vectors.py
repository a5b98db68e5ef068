"""The reader of one vector per modality."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from univa.data import read_vectors
from univa.errors import UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors, names = {}, {}
    for split, videos in (("train", 10), ("test", 3)):
        rows = []
        for video in range(videos):
            for clip in (10, 2, 1):  # as text they sort otherwise
                name = f"{split}{video}"
                rows.append({"utterance": f"{name}_{clip}", "video": name, "text": f"t{clip}"})
        for modality, size in (("text", 4), ("audio", 3), ("vision", 2)):
            values = torch.randn(len(rows), size, generator=generator)
            tensors[f"{split}.{modality}"] = 5 * values + 2
        tensors[f"{split}.positive"] = torch.tensor(
            [row["utterance"].endswith("0") for row in rows]
        ).long()
        names[split] = rows
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text(json.dumps(names))
    return tmp_path / "x.safetensors"


def test_splits_share_no_video_and_clips_stand_in_time(path):
    corpus = read_vectors(path, valid_fraction=0.3)
    assert corpus.label_names == ("negative", "positive")
    assert [len(split.dialogues) for split in corpus.splits.values()] == [7, 3, 3]
    videos = [{d.id for d in split.dialogues} for split in corpus.splits.values()]
    assert not videos[0] & videos[1]
    assert videos[2] == {"test0", "test1", "test2"}
    for split in corpus.splits.values():
        for dialogue in split.dialogues:
            assert [u.id.split("_")[1] for u in dialogue.utterances] == ["1", "2", "10"]
            assert [u.labels.tolist() for u in dialogue.utterances] == [[1, 0], [1, 0], [0, 1]]
    again = read_vectors(path, valid_fraction=0.3)
    assert [d.id for d in again.valid.dialogues] == [d.id for d in corpus.valid.dialogues]


def test_columns_are_standardised_by_the_training_rows(path):
    corpus = read_vectors(path)
    for modality, size in (("text", 4), ("audio", 3), ("vision", 2)):
        assert corpus.feature_sizes[modality] == size
        rows = torch.cat([u.features[modality] for u in corpus.train.utterances])
        assert rows.mean(0).abs().max() < 1e-5
        assert (rows.std(0) * size**0.5 - 1).abs().max() < 1e-5
        rows = torch.cat([u.features[modality] for u in corpus.test.utterances])
        assert rows.mean(0).abs().max() > 1e-3  # by the statistics of others


def test_scores_are_found_whichever_split_they_are_in(path, tmp_path):
    ids = [u.id for s in read_vectors(path).splits.values() for u in s.utterances]
    file = tmp_path / "va.json"
    file.write_text(
        json.dumps({"train": {name: ["t", "0.5", str(i / 100)] for i, name in enumerate(ids)}})
    )
    corpus = read_vectors(path, va_file=file)
    assert corpus.coordinate_modalities == ("text",)
    assert corpus.test.utterances[0].coordinates["text"] == (0.5, ids.index("test0_1") / 100)
    file.write_text('{"train": {}}')
    with pytest.raises(UserError, match="no score of utterance 'train0_10'"):
        read_vectors(path, va_file=file)


def test_mistakes_are_named(path):
    names = path.with_suffix(".json")
    good = json.loads(names.read_text())
    cases = [
        ({**good, "test": good["test"][1:]}, r"test.positive is \(9,\), but .* has 8 utterances"),
        ({**good, "train": 3}, "split 'train' must be a list"),
        (
            {**good, "test": [{**e, "video": "train1"} for e in good["test"]]},
            "in train and in test",
        ),
    ]
    for content, said in cases:
        names.write_text(json.dumps(content))
        with pytest.raises(UserError, match=said):
            read_vectors(path)
    names.write_text(json.dumps(good))
    path.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_vectors(path)
    names.unlink()
    with pytest.raises(UserError, match="no such file; it belongs beside"):
        read_vectors(path)
