"""A table of one's own and its features become a store that holds exactly them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from tests.data.own import (
    EMOTIONS,
    SIZES,
    records,
    write_csv,
    write_features,
    write_jsonl,
    write_scores,
)
from univa.cli import main
from univa.data import read_store
from univa.data.importers.table import read_rows
from univa.data.store.read import read_manifest


@pytest.fixture
def rows():
    return records()


def ids_of(rows):
    return [row["id"] for row in rows]


def run(*args) -> int:
    return main(["data", "import-table", *map(str, args), "--no-progress"])


def refused(capsys, *args) -> str:
    assert run(*args) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("univa: error: ")
    assert error.count("\n") == 1
    return error


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_what_goes_in_comes_out(rows, write, tmp_path, capsys):
    table = write(tmp_path / f"table.{write.__name__[6:]}", rows)
    features, scores = {}, {}
    args = []
    for seed, (modality, size) in enumerate(SIZES.items()):
        features[modality] = write_features(tmp_path / modality, ids_of(rows), size, seed=seed)
        args += [f"--{modality}-features", tmp_path / modality]
    for seed, modality in enumerate(("text", "audio", "vision")):
        scores[modality] = write_scores(tmp_path / f"{modality}.csv", ids_of(rows), seed=seed)
        args += [f"--{modality}-va", tmp_path / f"{modality}.csv"]
    store = tmp_path / "store"
    assert run(table, store, *args) == 0
    assert f"{len(rows)} utterances" in capsys.readouterr().out
    assert main(["data", "verify", str(store)]) == 0
    corpus = read_store(store, modalities=("audio", "vision"))
    assert set(corpus.label_names) == set(EMOTIONS)
    found = {u.id: u for split in corpus.splits.values() for u in split.utterances}
    assert list(found) == ids_of(rows)
    for row in rows:
        item = found[row["id"]]
        assert (item.dialogue_id, item.text) == (row["dialogue"], row["text"])
        held = {n for n, y in zip(corpus.label_names, item.labels.tolist(), strict=True) if y}
        assert held == set(filter(None, row["labels"].split(";")))
        for modality, written in features.items():
            expected = torch.from_numpy(written[row["id"]])
            assert torch.equal(item.features[modality], expected)
        assert item.coordinates == {m: scores[m][row["id"]] for m in scores}


def test_text_only_label_columns_speakers_times(rows, tmp_path):
    table = []
    for number, row in enumerate(rows):
        held = row.pop("labels").split(";")
        # Times are those of a clip in its file: they do not change the order.
        times = {"start": 100 - number, "end": 101 - number, "speaker": "A"}
        table.append({**row, **times, **{name: 2 * (name in held) for name in EMOTIONS}})
    table[0]["split"] = table[1]["split"] = table[2]["split"] = "train "
    for row in table:
        row["split"] = row["split"].replace("valid", "dev")
    store = tmp_path / "store"
    path = write_csv(tmp_path / "table.csv", table)
    assert run(path, store, "--labels", *reversed(EMOTIONS)) == 0
    corpus = read_store(store, modalities=("text",))
    assert corpus.label_names == tuple(reversed(EMOTIONS))
    assert [u.id for u in corpus.valid.utterances] == ["valid0_0", "valid0_1", "valid1_0"]
    lines = [line for line in read_manifest(store) if line["kind"] == "utterance"]
    by_id = {row["id"]: row for row in table}
    for line in lines:
        row = by_id[line["id"]]
        assert (line["start"], line["end"], line["speaker"]) == (row["start"], row["end"], "A")
        assert line["labels"] == [int(row[name] > 0) for name in reversed(EMOTIONS)]


def test_labels_may_be_a_list_and_scores_columns(rows, tmp_path):
    for row in rows:
        row["labels"] = [name for name in row["labels"].split(";") if name]
        row["text_valence"], row["text_arousal"] = 0.5, -0.25
    rows[1]["labels"] = []
    path = write_jsonl(tmp_path / "table.jsonl", rows)
    assert run(path, tmp_path / "store", "--labels", *EMOTIONS) == 0
    corpus = read_store(tmp_path / "store", modalities=())
    assert corpus.train.utterances[1].labels.tolist() == [0, 0, 0]
    assert corpus.test.utterances[0].coordinates == {"text": (0.5, -0.25)}


def test_scores_as_the_authors_write_them(rows, tmp_path):
    path = write_csv(tmp_path / "table.csv", rows)
    content = {"train": {row["id"]: [row["text"], "0.1234", "-0.5"] for row in rows}}
    content["meta"] = {"modality": "text", "columns": ["valence", "arousal"]}
    (tmp_path / "va.json").write_text(json.dumps(content))
    assert run(path, tmp_path / "store", "--text-va", tmp_path / "va.json") == 0
    corpus = read_store(tmp_path / "store", modalities=())
    assert corpus.valid.utterances[0].coordinates == {"text": (0.1234, -0.5)}


def test_word_vectors_have_the_scores_of_the_text(rows, tmp_path):
    path = write_csv(tmp_path / "table.csv", rows)
    written = write_features(tmp_path / "text", ids_of(rows), 7)
    scores = write_scores(tmp_path / "va.csv", ids_of(rows))
    args = ("--text-features", tmp_path / "text", "--text-va", tmp_path / "va.csv")
    assert run(path, tmp_path / "store", *args) == 0
    corpus = read_store(tmp_path / "store", modalities=("text",), text="vectors")
    for item in corpus.train.utterances:
        assert torch.equal(item.features["text"], torch.from_numpy(written[item.id]))
        assert item.coordinates == {"text": scores[item.id]}


def edit(row: int, **cells):
    def change(rows):
        rows[row].update(cells)

    return change


def drop(*columns):
    def change(rows):
        for row in rows:
            for column in columns:
                del row[column]

    return change


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (edit(1, split="trian"), (), "row 3: split 'trian' is none of train, valid, test"),
        (edit(1, split="test"), (), "row 3: dialogue 'train0' is in test here but in train at"),
        (edit(1, id="train0_0"), (), "row 3: utterance 'train0_0' comes twice, first at"),
        (edit(1, id=" "), (), "row 3: column 'id' is empty"),
        (edit(1, labels="joyy"), ("--labels", *EMOTIONS), "did you mean 'joy'?"),
        (drop("dialogue"), (), "no column 'dialogue'"),
        (drop("labels"), (), "no column 'labels'; add it, or name the columns"),
        (drop("labels"), ("--labels", "joy"), "no column 'joy' (and no column 'labels')"),
        (lambda rows: rows.__delitem__(slice(9, None)), (), "split 'valid' is empty"),
        (lambda rows: [row.update(labels="") for row in rows], (), "no row has a label"),
        (lambda rows: [r.update(start="soon") for r in rows], (), "column 'start' is 'soon'"),
        (lambda rows: [r.update(start=2, end=1) for r in rows], (), "end 1 is before start 2"),
        (lambda rows: [r.update(text_valence=1) for r in rows], (), "but no 'text_arousal'"),
        (
            lambda rows: [r.update(audio_valence="nan", audio_arousal=1) for r in rows],
            (),
            "row 2: column 'audio_valence' is 'nan'",
        ),
    ],
)
def test_odd_tables(rows, change, options, said, tmp_path, capsys):
    change(rows)
    path = write_csv(tmp_path / "table.csv", rows)
    message = refused(capsys, path, tmp_path / "store", *options)
    assert said in message
    assert str(path) in message
    assert not (tmp_path / "store").exists()


def test_missing_table_and_odd_lines(tmp_path, capsys):
    assert "no such file" in refused(capsys, tmp_path / "x.csv", tmp_path / "store")
    path = tmp_path / "x.jsonl"
    odd = (("", "empty"), ("[1]\n", "row 1: not a JSON object"), ("{\n", "not JSON"))
    for content, said in odd:
        path.write_text(content)
        assert said in refused(capsys, path, tmp_path / "store")


@pytest.fixture
def imported(rows, tmp_path):
    """A table with audio features; a way to import it."""
    table = write_csv(tmp_path / "table.csv", rows)
    write_features(tmp_path / "audio", ids_of(rows), 6)
    return table, tmp_path / "store", "--audio-features", tmp_path / "audio"


def change_index(folder: Path, number: int, **values):
    index = folder / "index.jsonl"
    lines = [json.loads(line) for line in index.read_text().splitlines()]
    lines[number] |= values
    write_jsonl(index, lines)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"id": "other"}, "'train0_0' has no audio features in"),
        ({"id": "train0_1"}, "row 3: utterance 'train0_1' comes twice"),
        ({"file": "../table.csv"}, "row 2: file '../table.csv' is not inside the folder"),
        ({"file": "gone.safetensors"}, "gone.safetensors: no such file, but index.jsonl names it"),
        ({"key": "gone"}, "no features of utterance 'train0_0' can be read"),
        ({"key": 3}, "row 2: id, file and key must be texts"),
        ({"shape": [0, 6]}, "row 2: shape [0, 6] is not [steps, size] above 0"),
        ({"shape": [99, 6]}, "as index.jsonl says; extract the features anew"),
        ({"shape": [3]}, "row 2: no object with id, file, steps"),
        ({"shape": [1, 7]}, "audio feature size"),
    ],
)
def test_odd_indices(imported, values, said, tmp_path, capsys):
    change_index(tmp_path / "audio", 1, **values)
    assert said in refused(capsys, *imported)
    assert not (tmp_path / "store" / "manifest.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.full((2, 6), np.nan, np.float32), "NaN or infinite feature of utterance 'train0_0'"),
        (np.zeros((2, 6), np.int32), "features must be floating point"),
        (b"junk", "no features of utterance 'train0_0' can be read"),
    ],
)
def test_odd_features(imported, content, said, tmp_path, capsys):
    path = tmp_path / "audio" / "odd.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file({"k": content}, path)
    change_index(tmp_path / "audio", 1, file=path.name, key="k", shape=[2, 6])
    assert said in refused(capsys, *imported)
    assert not (tmp_path / "store" / "manifest.jsonl").exists()


def test_an_import_that_was_stopped_goes_on(imported, rows, tmp_path, capsys):
    path = tmp_path / "audio" / "00009.safetensors"
    good = path.read_bytes()
    path.rename(tmp_path / "aside")
    assert "no such file" in refused(capsys, *imported)
    (tmp_path / "aside").rename(path)
    path.write_bytes(good)
    assert run(*imported) == 0
    capsys.readouterr()
    assert "a finished store is here" in refused(capsys, *imported)
    store = tmp_path / "store"
    (store / "manifest.jsonl").unlink()
    first = (store / "train-audio-00000.safetensors").stat().st_mtime_ns
    (store / "valid-audio-00000.safetensors").unlink()
    assert run(*imported) == 0
    capsys.readouterr()
    assert (store / "train-audio-00000.safetensors").stat().st_mtime_ns == first
    (store / "manifest.jsonl").unlink()
    write_csv(tmp_path / "table.csv", rows[:-1])
    assert "begun with other options or other files" in refused(capsys, *imported)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id,valence\na,1\n", "no column 'arousal'"),
        ("id,valence,arousal\ntrain0_0,1,1\n", "no score of utterance 'train0_1'"),
        ("id,valence,arousal\ntrain0_0,1,inf\n", "arousal of utterance 'train0_0' is 'inf'"),
        ("id,valence,arousal\na,1,1\na,1,1\n", "row 3: utterance 'a' is scored twice"),
        ("id,valence,arousal\n", "no scores in it"),
    ],
)
def test_odd_scores(imported, content, said, tmp_path, capsys):
    path = tmp_path / "va.csv"
    path.write_text(content)
    message = refused(capsys, *imported, "--text-va", path)
    assert said in message
    assert str(path) in message


def test_features_and_scores_of_another_modality(imported, tmp_path, capsys):
    change_index(tmp_path / "audio", 0, modality="vision")
    message = refused(capsys, *imported)
    assert "features of vision, not of audio; give them with --vision-features" in message
    change_index(tmp_path / "audio", 0, modality="audio")
    path = tmp_path / "va.json"
    scores = {"train": {"train0_0": ["x", "0", "0"]}, "meta": {"modality": "vision"}}
    path.write_text(json.dumps(scores))
    message = refused(capsys, *imported, "--audio-va", path)
    assert f"{path}: scores of vision, not of audio; give them with --vision-va" in message
    assert "no score of utterance 'train0_1'" in refused(capsys, *imported, "--vision-va", path)


def test_scores_in_table_and_file(rows, tmp_path, capsys):
    for row in rows:
        row["text_valence"] = row["text_arousal"] = 0
    write_scores(tmp_path / "va.csv", ids_of(rows))
    table = write_csv(tmp_path / "table.csv", rows)
    message = refused(capsys, table, tmp_path / "store", "--text-va", tmp_path / "va.csv")
    assert "drop --text-va or the columns" in message


@settings(max_examples=40, deadline=None)
@example(texts=["two\u2028lines\x85x"], labels=[set()], write=write_jsonl, separator=";")
@example(texts=['"a"\r\nb, c\n'], labels=[{"joy", "sad"}], write=write_csv, separator=",")
@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1),
    labels=st.lists(st.sets(st.sampled_from(EMOTIONS)), min_size=1),
    write=st.sampled_from([write_csv, write_jsonl]),
    separator=st.sampled_from([";", ",", " | "]),
)
def test_any_text_and_labels_come_through(texts, labels, write, separator, tmp_path_factory):
    table = [
        {
            "id": f"u{n}",
            "dialogue": "d",
            "split": "train",
            "text": text.replace("\0", ""),
            "labels": separator.join(sorted(held)),
        }
        for n, (text, held) in enumerate(zip(texts, labels, strict=False))
    ]
    folder = tmp_path_factory.mktemp("table")
    rows = read_rows(write(folder / f"t.{write.__name__[6:]}", table))
    assert [row.text for row in rows] == [row["text"].strip() for row in table]
    assert [set(row.labels) for row in rows] == labels[: len(rows)]
