"""M3ED's annotation, as its published example is laid out, becomes a store."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.data.own import write_features, write_scores
from univa.cli import main
from univa.data import M3ED_LABELS, read_store
from univa.data.store.read import read_manifest


def utterance(start: str, end: str, text: str, emotions: str, speaker: str = "A") -> dict[str, Any]:
    return {
        "StartTime": start,
        "EndTime": end,
        "Text": text,
        "Speaker": speaker,
        "EmoAnnotation": {
            "EmoAnnotator1": "Neutral",
            "final_mul_emo": emotions,
            "final_main_emo": emotions.split(",")[0],
        },
    }


def annotation() -> dict[str, Any]:
    return {
        "first": {
            "first_1": {
                "EpisodeInfo": {},
                "SpeakerInfo": {"A": {"Name": "x"}},
                "Dialog": {
                    "first_1_1": utterance("00:00:00:01", "00:00:01:05", "你", "Happy,Surprise"),
                    "first_1_2": utterance("00:01:01:20", "01:00:01:00", "好", "Neutral", "B"),
                },
            },
            "first_2": {
                "Dialog": {"first_2_1": utterance("00:00:09", "00:00:09.5", "嗯", "Anger")}
            },
        },
        "second": {
            "second_1": {"Dialog": {"second_1_1": utterance("0:0:0:0", "0:0:1:0", "", "Sad")}}
        },
        "third": {
            "third_1": {"Dialog": {"third_1_1": utterance("0:0:0:0", "0:0:1:0", "a", "Fear")}}
        },
        "unused": {"unused_1": {"Dialog": {}}},
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    splits = tmp_path / "splitInfo"
    splits.mkdir()
    for split, show in {"train": "first", "val": "second", "test": "third"}.items():
        (splits / f"movie_list_{split}.txt").write_text(f"{show}")  # no newline, as published
    path = tmp_path / "annotation.json"
    path.write_text(json.dumps(annotation(), ensure_ascii=False), encoding="utf-8")
    return {"annotation": path, "splits": splits, "store": tmp_path / "store"}


def run(files, *more) -> int:
    args = [files["annotation"], files["store"], "--splits", files["splits"], *more]
    return main(["data", "import-m3ed", *map(str, args), "--no-progress"])


def test_what_goes_in_comes_out(files, tmp_path):
    ids = ["first_1_1", "first_1_2", "first_2_1", "second_1_1", "third_1_1"]
    features = write_features(tmp_path / "audio", ids, 4)
    scores = write_scores(tmp_path / "va.csv", ids)
    more = ("--audio-features", tmp_path / "audio", "--audio-va", tmp_path / "va.csv")
    assert run(files, *more) == 0
    corpus = read_store(files["store"], modalities=("audio",))
    assert corpus.label_names == M3ED_LABELS
    assert [d.id for d in corpus.train.dialogues] == ["first_1", "first_2"]
    found = {u.id: u for split in corpus.splits.values() for u in split.utterances}
    assert list(found) == ids
    assert [u.text for u in found.values()] == ["你", "好", "嗯", "", "a"]
    held = [{n for n, y in zip(M3ED_LABELS, u.labels, strict=True) if y} for u in found.values()]
    assert held == [{"Happy", "Surprise"}, {"Neutral"}, {"Anger"}, {"Sad"}, {"Fear"}]
    for name, item in found.items():
        assert torch.equal(item.features["audio"], torch.from_numpy(features[name]))
        assert item.coordinates == {"audio": scores[name]}
    lines = [line for line in read_manifest(files["store"]) if line["kind"] == "utterance"]
    times = [(line["start"], line["end"]) for line in lines[:3]]
    assert times == [(0.04, 1.2), (61.8, 3601.0), (9.0, 9.5)]
    assert [line["speaker"] for line in lines[:3]] == ["A", "B", "A"]


def test_main_emotion(files):
    assert run(files, "--emotions", "main") == 0
    corpus = read_store(files["store"], modalities=())
    assert corpus.train.labels[0].tolist() == [1, 0, 0, 0, 0, 0, 0]


def change(*path: str, to: Any = None):
    def apply(content: dict[str, Any]) -> None:
        for name in path[:-1]:
            content = content[name]
        if to is None:
            del content[path[-1]]
        else:
            content[path[-1]] = to

    return apply


FIRST = ("first", "first_1", "Dialog", "first_1_2")


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (change("first"), "no show 'first', which the split lists name"),
        (change("first", to=[]), "'first' is no object with entries"),
        (change("first", "first_1", "Dialog"), "Dialog of 'first_1' is no object with entries"),
        (change(*FIRST, "Text"), "utterance 'first_1_2' has no Text"),
        (change(*FIRST, "EmoAnnotation"), "utterance 'first_1_2' has no final_mul_emo"),
        (change(*FIRST, "StartTime", to="soon"), "StartTime of utterance 'first_1_2' is 'soon'"),
        (
            change(*FIRST, "EmoAnnotation", to={"final_mul_emo": "Hapy"}),
            "has the emotion 'Hapy' (did you mean 'Happy'?)",
        ),
    ],
)
def test_odd_annotations(files, edit, said, capsys):
    content = annotation()
    edit(content)
    text = json.dumps(content, ensure_ascii=False, indent=1)
    files["annotation"].write_text(text, encoding="utf-8")
    assert run(files) == 2
    error = capsys.readouterr().err
    assert said in error
    assert str(files["annotation"]) in error
    assert error.count("\n") == 1
    assert not files["store"].exists()


def test_odd_lists(files, capsys):
    path = files["splits"] / "movie_list_val.txt"
    for content, said in (
        ("first\n", "show 'first' is in train and in valid"),
        ("second\nsecond\n", "row 2: 'second' comes twice"),
        ("\n", "no names in it"),
        (None, "no such file; give M3ED's folder of split lists with --splits"),
    ):
        path.unlink()
        if content is not None:
            path.write_text(content)
        else:
            path = files["splits"] / "movie_list_train.txt"
        assert run(files) == 2 or content is None
        error = capsys.readouterr().err
        assert said in error
        path.write_text("second\n")
