"""docs/own-corpus.md, command by command as it stands there, on generated files."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from tests.train.tiny import write_encoder
from tests.va.media_files import clip, picture, speech_encoder, tone, video
from univa.cli import main
from univa.data import read_store

DOCUMENT = Path(__file__).parents[2] / "docs" / "own-corpus.md"
MOODS = {"happy": ("happy", 60), "sad": ("sad", 140), "anger": ("loud", 220)}
WORDS = ("a", "happy", "sad", "loud", "day")
SPLITS = {"train": 8, "valid": 3, "test": 3}


def _blocks(language: str) -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def _corpus(root: Path) -> None:
    """Dialogues of two utterances, with the columns of the document's example."""
    (example,) = _blocks("csv")
    header = example.splitlines()[0].split(",")
    rows = []
    number = 0
    for split, count in SPLITS.items():
        for _ in range(count):
            for k in range(2):
                name = f"d{number}_{k}"
                mood = list(MOODS)[(number + k) % 3]
                word, level = MOODS[mood]
                sound = f"wav/{name}.{'flac' if number % 4 == 1 else 'wav'}"
                tone(root / sound, seconds=0.2 + 0.1 * k, rate=(16000, 22050)[k], channels=1 + k)
                if number % 4 == 1:
                    seen = f"video/{name}.mp4"
                    video(root / seen, frames=6)
                elif number % 4 == 2:
                    seen = f"frames/{name}.png"
                    picture(root / seen, level=level, seed=number)
                else:
                    seen = f"frames/{name}"
                    for frame in range(3):
                        picture(root / seen / f"{frame}.png", level=level, seed=number + frame)
                row = {
                    "id": name,
                    "dialogue": f"d{number}",
                    "split": split,
                    "text": f"a {word} day",
                    "audio": sound,
                    "vision": seen,
                    "labels": mood if k else f"{mood};sad",
                }
                rows.append([row[column] for column in header])
            number += 1
    _write(root / "manifest.csv", header, rows)


def _rated(root: Path) -> None:
    """The three tables with ratings."""
    rng = np.random.default_rng(0)
    tables: dict[str, list[list[object]]] = {"text": [], "audio": [], "vision": []}
    for number, split in enumerate(["train"] * 12 + ["valid"] * 6 + ["test"] * 6):
        valence, arousal = rng.uniform(-1, 1, 2).round(2).tolist()
        word = "happy" if valence > 0 else "sad"
        old = "dev" if split == "valid" else split
        text = f"a {word} {'loud' if arousal > 0 else 'day'}"
        tables["text"].append([number, old, 3 + 2 * valence, 3 + 2 * arousal, 3, text])
        sound = tone(root / "rated" / f"{number}.wav", seconds=0.3 + 0.1 * arousal)
        tables["audio"].append([sound.relative_to(root), valence, arousal, split])
        seen = picture(root / "rated" / f"{number}.png", level=round(128 + 90 * valence))
        tables["vision"].append([seen.relative_to(root), valence, arousal, split])
    _write(root / "emobank.csv", ["id", "split", "V", "A", "D", "text"], tables["text"])
    for name, column in (("rated-speech", "audio"), ("rated-frames", "vision")):
        header = [column, "valence", "arousal", "split"]
        _write(root / f"{name}.csv", header, tables[column])


def _write(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """All commands of the document, one after another, in a folder of its own."""
    root = tmp_path_factory.mktemp("walk")
    encoders = tmp_path_factory.mktemp("encoders")
    _corpus(root)
    _rated(root)
    variables = {
        "TEXT_ENCODER": str(write_encoder(encoders / "text", WORDS, positions=512)),
        "SPEECH_ENCODER": str(speech_encoder(encoders / "speech")),
        "IMAGE_ENCODER": str(clip(encoders / "image")),
    }
    commands = [line for block in _blocks("bash") for line in block.splitlines() if line.strip()]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for name, value in variables.items():
            patch.setenv(name, value)
        for command in commands:
            program, *args = shlex.split(os.path.expandvars(command))
            assert program == "univa", command
            assert main(args) == 0, command
    return root, commands


def test_every_step_is_there(walked):
    _, commands = walked
    said = "\n".join(commands)
    for step in (
        *("va fit-text", "va fit-audio", "va fit-vision"),
        *("score --modality text", "score --modality audio", "score --modality vision"),
        *("data extract-audio", "data extract-vision", "data import-table", "data check"),
        *("train own", "evaluate"),
    ):
        assert step in said


def test_the_store_holds_what_was_computed(walked):
    root, _ = walked
    corpus = read_store(root / "store")
    assert {name: len(split) for name, split in corpus.splits.items()} == {
        name: 2 * count for name, count in SPLITS.items()
    }
    assert set(corpus.label_names) == set(MOODS)
    assert corpus.feature_sizes == {"audio": 16, "vision": 16}
    for modality in ("text", "audio", "vision"):
        scores = json.loads((root / f"{modality}-va.json").read_text())
        for name, split in corpus.splits.items():
            for utterance in split.utterances:
                given = tuple(map(float, scores[name][utterance.id][1:]))
                assert utterance.coordinates[modality] == pytest.approx(given)
        mean = corpus.train.coordinates(modality).double().mean(0).tolist()
        assert scores["meta"]["normalization"]["mean"] == pytest.approx(mean, abs=1e-6)


def test_the_model_was_trained_on_all_of_it(walked):
    root, _ = walked
    run = root / "runs" / "own"
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["modalities"] == ["text", "audio", "vision"]
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for modality in ("text", "audio", "vision"):
        assert any(
            step[f"contrastive_{modality}"] != 0 for step in steps if step["event"] == "step"
        )
    assert 0 <= json.loads((run / "metrics.json").read_text())["test"]["micro_f1"] <= 1
