"""Predictions for one's own dialogues: those of the run where the utterances are the run's."""

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.train.test_text_encoder import encoder, layout, small  # noqa: F401
from tests.train.tiny import one_thread, tiny
from univa import UniVAPipeline
from univa.cli import main
from univa.config import TrainConfig
from univa.data import Split
from univa.data.build import load_corpus
from univa.errors import UserError
from univa.train import train
from univa.utils.console import text_width
from univa.va.regressor import VARegressor


def dialogues_of(split: Split) -> list[dict]:
    """The dialogues of a split as one gives them from Python."""
    return [
        {
            "id": dialogue.id,
            "utterances": [
                {"id": one.id, "text": one.text, "features": dict(one.features)}
                for one in dialogue.utterances
            ],
        }
        for dialogue in split.dialogues
    ]


def write_lines(split: Split, folder: Path) -> Path:
    """The same as JSON lines beside feature files of every kind."""
    (folder / "features").mkdir(parents=True, exist_ok=True)
    lines = []
    for dialogue in dialogues_of(split):
        for one in dialogue["utterances"]:
            for name, values in one["features"].items():
                path = f"features/{one['id']}.{name}"
                if name == "text":
                    np.save(folder / f"{path}.npy", values.numpy())
                    path += ".npy"
                else:
                    key = "features" if name == "audio" else "anything"
                    tensors = {key: values.contiguous()}
                    if name == "audio":
                        tensors["other"] = torch.zeros(1)
                    path += ".safetensors"
                    save_file(tensors, folder / path)
                one["features"][name] = path
        lines.append(json.dumps(dialogue))
    file = folder / "dialogues.jsonl"
    file.write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    return file


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def corpus():
    return load_corpus(tiny())


@pytest.fixture(scope="module")
def lines(corpus, tmp_path_factory) -> Path:
    return write_lines(corpus.test, tmp_path_factory.mktemp("own"))


def assert_predictions_of_the_run(run: Path, predicted: list[dict]) -> None:
    labels = TrainConfig.load(run / "config.json").model.labels
    expected = rows_of(run / "predictions.jsonl")
    assert [one["id"] for one in predicted] == [one["id"] for one in expected]
    for one, row in zip(predicted, expected, strict=True):
        assert [one["probabilities"][name] for name in labels] == row["probabilities"]
        decided = [name for name, yes in zip(labels, row["predictions"], strict=True) if yes]
        assert sorted(one["emotions"]) == sorted(decided)
        chances = [one["probabilities"][name] for name in one["emotions"]]
        assert chances == sorted(chances, reverse=True)


def test_the_same_as_evaluate_bit_for_bit(finished, corpus, lines, tmp_path):
    output = tmp_path / "new" / "predictions.jsonl"
    args = ["predict", str(finished), str(lines), "--output", str(output), "--device", "cpu"]
    assert main(args) == 0
    assert_predictions_of_the_run(finished, rows_of(output))
    assert [path.name for path in output.parent.iterdir()] == ["predictions.jsonl"]
    pipeline = UniVAPipeline(finished, device="cpu")
    predicted = pipeline(dialogues_of(corpus.test))
    assert_predictions_of_the_run(finished, [one.to_dict() for one in predicted])
    assert predicted[0].dialogue_id == corpus.test.dialogues[0].id
    one = pipeline(dialogues_of(corpus.test)[1])
    assert [item.id for item in one] == [u.id for u in corpus.test.dialogues[1].utterances]


@pytest.mark.parametrize("batch_size", [1, 5, 1000])
def test_other_batches_change_no_more_than_rounding(batch_size, finished, corpus):
    predicted = UniVAPipeline(finished, device="cpu", batch_size=batch_size)(
        dialogues_of(corpus.test)
    )
    expected = rows_of(finished / "predictions.jsonl")
    chances = torch.tensor([list(one.probabilities.values()) for one in predicted])
    torch.testing.assert_close(chances, torch.tensor([one["probabilities"] for one in expected]))


@pytest.fixture(scope="module")
def text_run(layout, encoder, tmp_path_factory) -> Path:  # noqa: F811
    """A run whose dialogues need two windows each."""
    run = tmp_path_factory.mktemp("text") / "run"
    config = small(layout, encoder, run)
    with one_thread():
        train(replace(config, epochs=1, data=replace(config.data, max_tokens=16)))
    return run


@pytest.fixture(scope="module")
def scorer(encoder, tmp_path_factory) -> Path:  # noqa: F811
    folder = tmp_path_factory.mktemp("scorer") / "va"
    torch.manual_seed(3)
    VARegressor.from_encoder(encoder, "text", max_tokens=20).save_pretrained(folder)
    return folder


def test_text_in_its_dialogue_and_valence_arousal(text_run, scorer, tmp_path, capsys):
    corpus = load_corpus(TrainConfig.load(text_run / "config.json"))
    file = tmp_path / "d.jsonl"
    file.write_text("".join(json.dumps(d) + "\n" for d in dialogues_of(corpus.test)))
    capsys.readouterr()
    args = ["predict", str(text_run), str(file), "--format", "jsonl", "--text-scorer", str(scorer)]
    assert main(args) == 0
    out, error = capsys.readouterr()
    assert error == ""
    predicted = [json.loads(line) for line in out.splitlines()]
    assert_predictions_of_the_run(text_run, predicted)
    texts = [one.text for one in corpus.test.utterances]
    points = VARegressor.from_pretrained(scorer).score(texts)
    torch.testing.assert_close(torch.tensor([one["va"]["text"] for one in predicted]), points)
    # The context matters: alone an utterance is another one.
    pipeline = UniVAPipeline(text_run, scorers={"text": scorer})
    alone = pipeline({"utterances": [{"text": texts[0]}]})[0]
    assert alone.id == "1_0"
    assert alone.probabilities != predicted[0]["probabilities"]
    blank = pipeline({"utterances": [{"text": " "}]})[0]
    assert blank.va == {"text": None}
    assert set(blank.probabilities) == set(pipeline.labels)


def test_answers_come_before_the_input_ends(text_run):
    pipeline = UniVAPipeline(text_run, batch_size=2)
    taken = []

    def endless() -> Iterator[dict]:
        for k in range(1000):
            taken.append(k)
            yield {"id": str(k), "utterances": [{"text": "we went"}, {"text": "there"}]}

    stream = pipeline.stream(endless())
    assert next(stream).id == "0_0"
    assert taken == [0]
    assert [next(stream).id for _ in range(3)] == ["0_1", "1_0", "1_1"]
    assert taken == [0, 1]


def test_standard_input_and_table(text_run, scorer, monkeypatch, capsys):
    lines = [
        {"utterances": [{"text": "we went\x1b[2J there"}]},
        {"id": "中文对话", "utterances": [{"text": "中" * 90}]},
    ]
    data = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert main(["predict", str(text_run), "-", "--text-scorer", str(scorer)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split() == ["utterance", "emotions", "V", "A", "text"]
    assert shown[1].startswith("1_0 ")
    assert "we went [2J there" in shown[1]
    assert any("中文" in line for line in shown[2:])
    assert all(text_width(line) <= 80 for line in shown)
    assert "\x1b" not in "".join(shown)


def test_table_with_and_without_emotions(finished, lines, capsys):
    assert main(["predict", str(finished), str(lines)]) == 0
    table = capsys.readouterr().out.splitlines()
    expected = rows_of(finished / "predictions.jsonl")
    for row in expected:
        line = next(line for line in table if line.startswith(f"{row['id']} "))
        best = max(row["probabilities"])
        assert f"{best:.2f}" in line
        assert ("- (" in line) == (not any(row["predictions"]))


def test_the_document_for_machines(finished, lines, tmp_path, capsys):
    args = ["predict", str(finished), str(lines)]
    assert main([*args, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*args, "--json"]) == 0
    out, error = capsys.readouterr()
    assert json.loads(out) == {"predictions": rows}
    assert error == ""
    output = tmp_path / "out.jsonl"
    assert main([*args, "--json", "--output", str(output)]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "output": str(output),
        "dialogues": len(lines.read_text().split("\n")) - 2,
        "utterances": len(rows),
    }
    assert rows_of(output) == rows
    # No document where a line is wrong.
    bad = lines.with_name("bad.jsonl")
    bad.write_text(lines.read_text() + "{")
    assert main(["predict", str(finished), str(bad), "--json"]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON (Expecting property name"),
        ("[]", "line 2: not an object with utterances"),
        ("{}", "line 2: utterances must be a list of at least one"),
        ('{"utterances": []}', "line 2: utterances must be a list"),
        ('{"utterances": ["hello"]}', "line 2, utterance 1: not an object"),
        ('{"utterances": [{"text": 3}]}', "line 2, utterance 1: text is int, not a string"),
        ('{"id": "", "utterances": [{}]}', "line 2: id must be a string"),
        ('{"utterances": [{"id": "a"}, {"id": "a"}]}', "utterance 2: the id 'a' comes twice"),
        ('{"utterances": [{"features": {"sound": "x"}}]}', "features must be an object with text"),
        (
            '{"utterances": [{"text": "a\\ud83d"}]}',
            "line 2, utterance 1: text holds \\ud83d, which",
        ),
        ('{"id": "\\udc00", "utterances": [{}]}', "line 2: id holds \\udc00, which is half a char"),
        ('{"utterances": [{"id": "a"}]}', "line 2, utterance 'a': no word vectors, which the"),
        (
            '{"utterances": [{"id": "a", "features": {"text": "t.npy"}}]}',
            "line 2, utterance 'a': no audio features, which the model needs (it sees text, audio,",
        ),
        (
            '{"utterances": [{"features": {"text": "t.npy"}, "audio": "a.wav"}]}',
            "utterance '2_0': audio is a media file, and the model reads features: give --audio-e",
        ),
        ('{"utterances": [{"features": {"text": "no.npy"}}]}', "no.npy: cannot be read (No such"),
        ('{"utterances": [{"features": {"text": "t.csv"}}]}', "t.csv: neither .npy nor .safet"),
        ('{"utterances": [{"features": {"text": "broken.npy"}}]}', "broken.npy: cannot be read ("),
        ('{"utterances": [{"features": {"text": "b.safetensors"}}]}', "b.safetensors: cannot be"),
        ('{"utterances": [{"features": {"text": "flat.npy"}}]}', "have the shape [32], not [steps"),
        ('{"utterances": [{"features": {"text": "wide.npy"}}]}', "33 columns, the model reads 32"),
        ('{"utterances": [{"features": {"text": "two.safetensors"}}]}', "2 tensors in it, none"),
        ('{"utterances": [{"features": {"text": {"a": 1}}}]}', "text: the features are no array"),
        ('{"utterances": [{"features": {"text": ["a"]}}]}', "text: the features are no array"),
        ('{"utterances": [{"features": {"text": "objects.npy"}}]}', "objects.npy: cannot be read"),
    ],
)
def test_a_bad_line_is_named(line, said, finished, lines, tmp_path, capsys):
    first = json.loads(lines.read_text().splitlines()[0])
    for one in first["utterances"]:
        one["features"] = {k: str(lines.parent / v) for k, v in one["features"].items()}
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{json.dumps(first)}\n{line}\n")
    np.save(tmp_path / "t.npy", np.zeros((3, 32), np.float32))
    np.save(tmp_path / "flat.npy", np.zeros(32, np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((3, 33), np.float32))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00v")
    (tmp_path / "b.safetensors").write_bytes(b"junk")
    save_file({"a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "two.safetensors")
    before = sorted(tmp_path.iterdir())
    output = tmp_path / "out.jsonl"
    assert main(["predict", str(finished), str(file), "--output", str(output)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    assert f"{file}, line 2" in error
    assert said in error
    assert sorted(tmp_path.iterdir()) == before
    # On standard output what came before stands.
    assert main(["predict", str(finished), str(file), "--format", "jsonl"]) == 2
    assert len(capsys.readouterr().out.splitlines()) == len(first["utterances"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (torch.full((3, 32), float("nan")), "NaN or infinite feature at step 1"),
        (torch.zeros(3, 32, dtype=torch.int64), "the features are torch.int64, not floating"),
        (torch.zeros(0, 32), "at least one step"),
    ],
)
def test_bad_values(values, said, finished, corpus):
    dialogue = dialogues_of(corpus.test)[0]
    dialogue["utterances"][1]["features"]["text"] = values
    name = dialogue["utterances"][1]["id"]
    with pytest.raises(UserError, match=said) as error:
        UniVAPipeline(finished)(dialogue)
    assert str(error.value).startswith(f"dialogue 1, utterance {name!r}, text: ")


def test_a_missing_text(text_run):
    with pytest.raises(UserError, match="dialogue 1, utterance 'x': no text, which the model"):
        UniVAPipeline(text_run)({"utterances": [{"id": "x"}]})


@pytest.mark.parametrize("modalities", [("text",), ("audio", "vision")])
def test_any_subset_of_modalities(modalities, tmp_path, corpus):
    config = tiny(epochs=1, run_folder=str(tmp_path / "run"))
    train(replace(config, model=replace(config.model, modalities=modalities)))
    dialogues = dialogues_of(corpus.test)
    for dialogue in dialogues:
        for one in dialogue["utterances"]:
            one["features"] = {m: one["features"][m] for m in modalities}
    pipeline = UniVAPipeline(tmp_path / "run")
    assert pipeline.modalities == modalities
    predicted = [one.to_dict() for one in pipeline(dialogues)]
    assert_predictions_of_the_run(tmp_path / "run", predicted)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["nowhere", "x"], "x: cannot be read (No such file"),
        (["nowhere", "LINES"], "nowhere/config.json: no such file"),
        (["RUN", "LINES", "--batch-size", "0"], "--batch-size: 0 is less than 1"),
        (["RUN", "LINES", "--text-scorer", "nowhere"], "nowhere/config.json: no such file"),
        (["RUN", "LINES", "--output", "FOLDER"], "cannot write a file here, this is a folder"),
        (["RUN", "LINES", "--json", "--format", "jsonl"], "--format would not be read with --json"),
    ],
)
def test_mistakes_in_options(args, said, finished, lines, capsys):
    places = {"RUN": str(finished), "LINES": str(lines), "FOLDER": str(lines.parent)}
    assert main(["predict", *(places.get(arg, arg) for arg in args)]) == 2
    out, error = capsys.readouterr()
    assert (out, error.count("\n")) == ("", 1)
    assert said in error
