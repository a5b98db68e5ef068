"""Computational sequences become a store; the numbers are read again by h5py alone."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.own import write_csv, write_features, write_scores
from univa.cli import main
from univa.data import MOSEI_LABELS, read_store
from univa.data.importers.csd_file import OVERLAP_SECONDS, Csd, Segment
from univa.data.store.read import read_manifest
from univa.errors import UserError

Entries = dict[str, tuple[np.ndarray, np.ndarray]]
FOLDS = {"train": ["a", "b"], "valid": ["c"], "test": ["d-1"]}


def write_csd(path: Path, entries: Entries, *, names=None, scalar=False, root="All Labels") -> Path:
    """A file as the SDK writes it; `scalar` has the metadata as byte strings."""
    with h5py.File(path, "w") as file:
        group = file.create_group(root)
        for key, (features, intervals) in entries.items():
            video = group.create_group(f"data/{key}")
            video.create_dataset("features", data=features, compression="gzip")
            video.create_dataset("intervals", data=intervals, compression="gzip")
        metadata = group.create_group("metadata")
        values = {"root name": root, "md5": None, "dataset version": 1.0}
        values |= {} if names is None else {"dimension names": names}
        for name, value in values.items():
            if scalar:
                metadata[name] = np.bytes_(json.dumps(value))
            else:
                metadata.create_dataset(name, (1,), dtype=h5py.special_dtype(vlen=str))
                metadata[name][0] = json.dumps(value)
    return path


def intervals(rng, count, step=1.0):
    ends = np.cumsum(rng.uniform(0.2, 1, count)) * step
    return np.stack([np.concatenate([[0], ends[:-1]]), ends], 1).astype(np.float32)


def label_entries(width=7, seed=0) -> Entries:
    rng = np.random.default_rng(seed)
    found = {}
    for video, count in {"a": 3, "b": 2, "c": 2, "d-1": 2}.items():
        values = rng.choice([0, 0, 1 / 3, 1, 3], (count, width)).astype(np.float32)
        values[:, 0] = rng.uniform(-3, 3, count)
        found[video] = (values, intervals(rng, count, 4))
    return found


def feature_entries(size, seed) -> Entries:
    rng = np.random.default_rng(seed)
    return {
        video: (rng.standard_normal((60, size)).astype(np.float32), intervals(rng, 60, 0.5))
        for video in ("a", "b", "c", "d-1", "unused")
    }


def word_entries() -> Entries:
    words = np.array([[w.encode()] for w in ("sp", "it", "was", "sp", "good")] * 12)
    return {key: (words, times) for key, (_, times) in feature_entries(1, 5).items()}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    (tmp_path / "folds.json").write_text(json.dumps(FOLDS))
    return {
        "labels": write_csd(tmp_path / "labels.csd", label_entries()),
        "folds": tmp_path / "folds.json",
        "audio": write_csd(tmp_path / "audio.csd", feature_entries(4, 1), root="COVAREP"),
        "vision": write_csd(tmp_path / "vision.csd", feature_entries(3, 2), root="FACET 4.2"),
        "words": write_csd(tmp_path / "words.csd", word_entries(), root="words"),
        "store": tmp_path / "store",
    }


def arguments(files, *more) -> list[str]:
    args = [files["labels"], files["store"], "--folds", files["folds"]]
    for modality in ("audio", "vision"):
        if modality in files:
            args += [f"--{modality}-features", files[modality]]
    if "words" in files:
        args += ["--words", files["words"]]
    return ["data", "import-csd", *map(str, [*args, *more]), "--no-progress"]


def refused(capsys, files, *more) -> str:
    assert main(arguments(files, *more)) == 2
    error = capsys.readouterr().err.splitlines(keepends=True)[-1]  # after remarks
    assert error.startswith("univa: error: ")
    assert error.count("\n") == 1
    assert not (files["store"] / "manifest.jsonl").exists()
    return error


def overlapping(path: Path, video: str, start: float, end: float) -> list:
    """Rows of a stretch, by a loop over what h5py reads."""
    with h5py.File(path) as file:
        (root,) = file.values()
        features = root["data"][video]["features"][()]
        times = root["data"][video]["intervals"][()].astype(float)
    return [
        row
        for row, (first, last) in zip(features, times, strict=True)
        if min(last, end) - max(first, start) > OVERLAP_SECONDS
    ]


@pytest.mark.parametrize("scalar", [False, True])
def test_store_has_what_h5py_reads(files, scalar, capsys):
    write_csd(files["labels"], label_entries(), scalar=scalar, names=["sentiment", *MOSEI_LABELS])
    assert main(arguments(files)) == 0
    assert "9 utterances" in capsys.readouterr().out
    corpus = read_store(files["store"], modalities=("audio", "vision"))
    assert corpus.label_names == MOSEI_LABELS
    assert [d.id for d in corpus.train.dialogues] == ["a", "b"]
    found = {u.id: u for split in corpus.splits.values() for u in split.utterances}
    with h5py.File(files["labels"]) as file:
        data = file["All Labels/data"]
        assert sorted(found) == sorted(
            f"{v}[{i}]" for v in data for i in range(len(data[v]["features"]))
        )
        for video in data:
            for number, (label, (start, end)) in enumerate(
                zip(data[video]["features"][()], data[video]["intervals"][()].tolist(), strict=True)
            ):
                item = found[f"{video}[{number}]"]
                assert item.labels.tolist() == [float(value > 0) for value in label[1:]]
                for modality in ("audio", "vision"):
                    rows = overlapping(files[modality], video, start, end)
                    assert len(rows) > 1
                    assert torch.equal(item.features[modality], torch.tensor(np.array(rows)))
                words = overlapping(files["words"], video, start, end)
                assert item.text == " ".join(w[0].decode() for w in words if w[0] != b"sp")
    lines = {line.get("id"): line for line in read_manifest(files["store"])}
    assert lines["a[0]"]["start"] == 0


def test_columns_go_by_the_names_of_the_metadata(files):
    names = ["Fear", "Disgust", "Surprise", "Anger", "Sadness", "Happiness"]
    entries = label_entries(6)
    write_csd(files["labels"], entries, names=names)
    assert main(arguments(files)) == 0
    corpus = read_store(files["store"], modalities=())
    expected = (entries["d-1"][0][:, ::-1] > 0).astype(float)
    order = [names[::-1].index(n) for n in ("Happiness", "Sadness", "Anger", "Surprise")]
    order += [names[::-1].index(n) for n in ("Disgust", "Fear")]
    assert corpus.test.labels.tolist() == expected[:, order].tolist()


def test_aligned_sequences_are_put_together_again(files):
    """`video[0]`, `video[1]`, ... as the SDK's own alignment leaves them."""
    expected_store, parts = files["store"], {}
    assert main(arguments(files)) == 0
    for video, (values, times) in feature_entries(4, 1).items():
        for number, rows in enumerate(np.array_split(np.arange(60), 12)):
            parts[f"{video}[{number}]"] = (values[rows], times[rows])
    write_csd(files["audio"], parts)
    labels = {
        f"{video}[{number}]": (values[number : number + 1], times[number : number + 1])
        for video, (values, times) in label_entries().items()
        for number in range(len(values))
    }
    write_csd(files["labels"], labels)
    files["store"] = expected_store.with_name("other")
    assert main(arguments(files)) == 0
    ours, theirs = (read_store(f, modalities=("audio",)) for f in (files["store"], expected_store))
    for a, b in zip(ours.train.utterances, theirs.train.utterances, strict=True):
        assert (a.id, a.text, a.labels.tolist()) == (b.id, b.text, b.labels.tolist())
        assert torch.equal(a.features["audio"], b.features["audio"])


@settings(max_examples=30, deadline=None)
@given(
    times=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 2)), min_size=1, max_size=12),
    segment=st.tuples(st.floats(0, 9), st.floats(0, 4)),
)
def test_overlap(times, segment, tmp_path_factory):
    path = tmp_path_factory.mktemp("csd") / "x.csd"
    spans = np.array([(start, start + length) for start, length in times])
    write_csd(path, {"v": (np.arange(len(spans))[:, None].astype(float), spans)})
    start, end = segment[0], segment[0] + segment[1]
    found = Csd(path).overlapping(Segment("v[0]", "v", start, end)).reshape(-1).tolist()
    expected = [
        number
        for number, (first, last) in enumerate(spans.tolist())
        if min(last, end) - max(first, start) > OVERLAP_SECONDS
    ]
    assert sorted(found) == expected
    assert [spans[int(n), 0] for n in found] == sorted(spans[int(n), 0] for n in found)


def spoil(files, modality="audio", value=np.nan) -> int:
    """Spoil two rows; how many rows the first utterance has."""
    entries = feature_entries(4, 1)
    entries["a"][0][1, 2] = value
    entries["a"][0][2, 0] = value
    write_csd(files[modality], entries)
    start, end = label_entries()["a"][1][0].tolist()
    return len(overlapping(files[modality], "a", start, end))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_rows_that_are_not_finite(files, value, capsys):
    count = spoil(files, value=value)
    message = refused(capsys, files)
    assert (
        f"{files['audio']}: NaN or infinity in 2 audio rows of 1 utterances, first 'a[0]'"
        in message
    )
    assert "give --non-finite drop or --non-finite zero" in message
    for treatment, steps, said in (("drop", count - 2, "left out"), ("zero", count, "set to 0")):
        files["store"] = files["store"].with_name(treatment)
        assert main(arguments(files, "--non-finite", treatment)) == 0
        assert said in capsys.readouterr().err
        first = read_store(files["store"], modalities=("audio",)).train.utterances[0]
        kept = feature_entries(4, 1)["a"][0][:count]
        if treatment == "drop":
            kept = np.delete(kept, [1, 2], 0)
        else:
            kept[1, 2] = kept[2, 0] = 0
        assert len(kept) == steps
        assert torch.equal(first.features["audio"], torch.from_numpy(kept))


def test_labels_that_are_not_finite(files, capsys):
    entries = label_entries()
    entries["a"][0][1, 3] = np.inf
    write_csd(files["labels"], entries)
    assert "NaN or infinity in the labels of 1 utterances, first 'a[1]'" in refused(capsys, files)
    files["store"] = files["store"].with_name("zero")
    assert main(arguments(files, "--non-finite", "zero")) == 0
    second = read_store(files["store"], modalities=()).train.utterances[1]
    assert second.labels[2] == 0
    files["store"] = files["store"].with_name("drop")
    assert main(arguments(files, "--non-finite", "drop")) == 0
    ids = [u.id for u in read_store(files["store"], modalities=()).train.utterances]
    assert ids == ["a[0]", "a[2]", "b[0]", "b[1]"]


def test_utterances_without_rows(files, capsys):
    entries = feature_entries(4, 1)
    values, times = entries["b"]
    end = label_entries()["b"][1][0, 1]
    entries["b"] = (values[times[:, 0] > end], times[times[:, 0] > end])
    write_csd(files["audio"], entries)
    message = refused(capsys, files)
    assert "1 utterances have no audio rows, first 'b[0]'; give --missing drop" in message
    files["store"] = files["store"].with_name("zero")
    assert main(arguments(files, "--missing", "zero")) == 0
    said = "1 utterances have no audio rows, first 'b[0]': one row of zeros each"
    assert said in capsys.readouterr().err
    corpus = read_store(files["store"], modalities=("audio",))
    assert torch.equal(corpus.train.dialogues[1].utterances[0].features["audio"], torch.zeros(1, 4))
    files["store"] = files["store"].with_name("drop")
    assert main(arguments(files, "--missing", "drop")) == 0
    assert "1 utterances without features are left out, first 'b[0]'" in capsys.readouterr().err
    corpus = read_store(files["store"], modalities=("audio",))
    assert [u.id for u in corpus.train.dialogues[1].utterances] == ["b[1]"]


def test_folds_of_the_sdk_and_videos_that_do_not_match(files, tmp_path, capsys):
    folds = tmp_path / "cmu_mosei_std_folds.py"
    folds.write_text(
        "import os\nos.mkdir('sprung')\n"
        "standard_train_fold=['a','gone']\nstandard_valid_fold=[\n'c']\n"
        "standard_test_fold = ['d-1']\n"
    )
    files["folds"] = folds
    assert main(arguments(files)) == 0
    out = capsys.readouterr().err
    assert "1 videos are in no fold and left out, first 'b'" in out
    assert "1 videos of the folds have no labels, first 'gone'" in out
    assert not Path("sprung").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "no list of videos train"),
        ('{"train": ["a"], "valid": ["a"], "test": ["b"]}', "'a' is in train and in valid"),
        ('{"train": ["a"], "valid": "c", "test": ["b"]}', "no list of videos valid"),
        ("{", "invalid JSON"),
        ('{"train": ["a"], "val": ["x"], "test": ["b"]}', "split 'valid' is empty"),
    ],
)
def test_odd_folds(files, content, said, capsys):
    files["folds"].write_text(content)
    assert said in refused(capsys, files)


def test_words_from_a_table(files, tmp_path):
    ids = [f"{v}[{n}]" for v, (values, _) in label_entries().items() for n in range(len(values))]
    files["words"] = write_csv(tmp_path / "t.csv", [{"id": n, "text": f"said {n}"} for n in ids])
    # Features of one modality from a folder, by the ids of the utterances.
    write_features(tmp_path / "frames", ids, 9)
    files["vision"] = tmp_path / "frames"
    write_scores(tmp_path / "va.csv", ids)
    assert main(arguments(files, "--text-va", tmp_path / "va.csv")) == 0
    corpus = read_store(files["store"], modalities=("audio", "vision"))
    assert corpus.feature_sizes == {"audio": 4, "vision": 9}
    assert [u.text for u in corpus.test.utterances] == ["said d-1[0]", "said d-1[1]"]
    assert corpus.coordinate_modalities == ("text",)


def test_texts_that_come_twice(files, tmp_path, capsys):
    rows = [{"id": name, "text": "said"} for name in ("a[0]", "a[1]", "a[0]")]
    files["words"] = write_csv(tmp_path / "t.csv", rows)
    message = refused(capsys, files)
    assert f"{files['words']}, row 4: utterance 'a[0]' comes twice; keep one text" in message


def without(key):
    def change(path):
        with h5py.File(path, "a") as file:
            del file[key]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b"junk"), "no computational sequence"),
        (lambda path: path.write_bytes(path.read_bytes()[:3000]), "no computational sequence"),
        (without("All Labels/data"), "no computational sequence"),
        (without("All Labels/data/a/features"), "video 'a' has no features [n, F] with intervals"),
        (without("All Labels/data/a/intervals"), "video 'a' has no features [n, F] with intervals"),
        (lambda path: write_csd(path, {}), "no computational sequence"),
        (lambda path: write_csd(path, label_entries(5)), "5 label columns; known are 7"),
        (lambda path: write_csd(path, word_entries()), "has words, not numbers"),
        (lambda path: write_csd(path, label_entries(1)), "give --task sentiment"),
    ],
)
def test_odd_label_files(files, change, said, capsys):
    change(files["labels"])
    message = refused(capsys, files)
    assert said in message
    assert str(files["labels"]) in message


def test_odd_feature_files(files, capsys):
    entries = feature_entries(4, 1)
    entries["b"] = (entries["b"][0][:, :2], entries["b"][1])
    write_csd(files["audio"], entries)
    assert "video 'b' has 2 numbers in a row, others have 4" in refused(capsys, files)
    entries["b"] = (entries["b"][0][:7], entries["b"][1])
    write_csd(files["audio"], entries)
    assert "video 'b' has no features [n, F]" in refused(capsys, files)
    write_csd(files["audio"], word_entries())
    assert "its features are words, not numbers" in refused(capsys, files)
    files["words"], files["audio"] = files["vision"], files["vision"]
    assert "its features are numbers, not words" in refused(capsys, files)


def damaged_links(path: Path) -> None:
    """Overwrite the nodes that list what is in the groups."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"SNOD", b"XXXX").replace(b"HEAP", b"XXXX"))


@pytest.mark.parametrize("file", ["labels", "audio", "words"])
def test_damaged_groups(files, file, capsys):
    damaged_links(files[file])
    message = refused(capsys, files)
    assert f"{files[file]}: no computational sequence" in message


def damage(path: Path, dataset: str) -> None:
    """Overwrite the compressed bytes of a dataset."""
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)


@pytest.mark.parametrize(
    ("file", "dataset", "said"),
    [
        ("labels", "All Labels/data/a/features", "video 'a' is damaged"),
        ("labels", "All Labels/data/a/intervals", "video 'a' has no features"),
        ("audio", "COVAREP/data/b/features", "video 'b' is damaged"),
        ("words", "words/data/c/features", "video 'c' is damaged"),
    ],
)
def test_damaged_data(files, file, dataset, said, capsys):
    damage(files[file], dataset)
    message = refused(capsys, files)
    assert said in message
    assert str(files[file]) in message


def test_aligned_labels_keep_their_numbers(files):
    """The SDK leaves segments out; text, scores and folders know the others by their numbers."""
    labels = {
        f"{video}[{number}]": (values[number : number + 1], times[number : number + 1])
        for video, (values, times) in label_entries().items()
        for number in range(len(values))
    }
    del labels["a[1]"]
    write_csd(files["labels"], labels)
    assert main(arguments(files)) == 0
    corpus = read_store(files["store"], modalities=())
    assert [u.id for u in corpus.train.utterances] == ["a[0]", "a[2]", "b[0]", "b[1]"]


def test_h5py_is_missing(files, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'univa[csd]'" in refused(capsys, files)
    with pytest.raises(UserError, match="need the package h5py"):
        Csd(files["labels"])


def test_real_file(shared, tmp_path, capsys):
    """The sentiment of CMU-MOSI, against what h5py reads."""
    path = shared / "data" / "csd_example" / "CMU_MOSI_Labels.csd"
    with h5py.File(path) as file:
        (root,) = file.values()
        data = {
            video: (entry["features"][:, 0], entry["intervals"][()])
            for video, entry in root["data"].items()
        }
    videos = sorted(data)
    folds = {"train": videos[:60], "valid": videos[60:70], "test": videos[70:]}
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    files = {"labels": path, "folds": tmp_path / "folds.json", "store": tmp_path / "store"}
    assert "no emotions in this file" in refused(capsys, files)
    assert main(arguments(files, "--task", "sentiment")) == 0
    assert f"{sum(len(s) for s, _ in data.values())} utterances" in capsys.readouterr().out
    corpus = read_store(files["store"], modalities=())
    assert corpus.label_names == ("negative", "positive")
    for split, names in folds.items():
        dialogues = corpus.splits[split].dialogues
        assert [d.id for d in dialogues] == names
        for dialogue in dialogues:
            sentiment, times = data[dialogue.id]
            order = np.argsort(times[:, 0], kind="stable")
            assert [u.id for u in dialogue.utterances] == [f"{dialogue.id}[{i}]" for i in order]
            labels = torch.stack([u.labels for u in dialogue.utterances])
            expected = np.stack([sentiment < 0, sentiment > 0], 1)[order]
            assert labels.tolist() == expected.astype(float).tolist()
    assert main(["data", "check", str(files["store"]), "--json", "--no-progress"]) == 0
    report = json.loads(capsys.readouterr().out)
    for split, names in folds.items():
        assert report["labels"]["positive"][split] == sum((data[v][0] > 0).sum() for v in names)
        assert report["labels"]["negative"][split] == sum((data[v][0] < 0).sum() for v in names)
        empty = report["splits"][split]["empty_labels"]
        assert empty == sum((data[v][0] == 0).sum() for v in names)
