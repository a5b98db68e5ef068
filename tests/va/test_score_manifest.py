"""`univa va score`: manifests of all modalities, stopped runs, odd input."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.va.media_files import clip, picture, speech_encoder, tone
from univa.cli import main
from univa.data import VANormalizer, read_authors_text
from univa.media.decode import Clip
from univa.media.resume import ItemLog, item_key
from univa.va.regressor import VARegressor

SPLITS = ("train", "train", "train", "valid", "test", "train", "test")
TEXTS = ("a happy day", "so sad, so slow", "very loud!", "a cruel day", "kind", "still", "a a day")


@pytest.fixture
def manifest(tmp_path):
    """Seven utterances with text, sound and picture."""
    root = tmp_path / "corpus"
    with_header = [["id", "dialogue", "split", "text", "audio", "vision"]]
    for k, (split, text) in enumerate(zip(SPLITS, TEXTS, strict=True)):
        tone(root / "wav" / f"{k}.wav", seconds=0.1 + 0.05 * k, hertz=200 + 150 * k)
        picture(root / "png" / f"{k}.png", level=30 * k, seed=k)
        with_header.append([f"d{k}_0", f"d{k}", split, text, f"wav/{k}.wav", f"png/{k}.png"])
    path = root / "manifest.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(with_header)
    return path


@pytest.fixture(scope="module")
def scorers(tiny_encoder, tmp_path_factory):
    """modality -> folder of a scorer whose scores differ from item to item."""
    root = tmp_path_factory.mktemp("scorers")
    encoders = {
        "text": tiny_encoder,
        "audio": speech_encoder(root / "speech"),
        "vision": clip(root / "clip"),
    }
    folders = {}
    for modality, encoder in encoders.items():
        torch.manual_seed(1)
        scorer = VARegressor.from_encoder(encoder, modality)
        scorer.scale.fill_(4.0)
        folders[modality] = root / f"{modality}-scorer"
        scorer.save_pretrained(folders[modality])
    return folders


def _run(modality, manifest, output, *more):
    command = f"va score --modality {modality} --manifest {manifest} --output {output}"
    return main([*command.split(), "--no-progress", "--device", "cpu", *map(str, more)])


@pytest.mark.parametrize("modality", ["text", "audio", "vision"])
def test_one_file_per_modality(manifest, scorers, tmp_path, capsys, modality):
    output = tmp_path / "out" / "scores.json"
    assert _run(modality, manifest, output, "--model", scorers[modality], "--batch-size", 3) == 0
    assert "7 utterances scored into" in capsys.readouterr().out
    result = json.loads(output.read_text(encoding="utf-8"))
    assert list(result) == ["train", "valid", "test", "meta"]
    model = VARegressor.from_pretrained(scorers[modality])
    written = {
        "text": TEXTS,
        "audio": [f"wav/{k}.wav" for k in range(7)],
        "vision": [f"png/{k}.png" for k in range(7)],
    }[modality]
    points = []
    for k, split in enumerate(SPLITS):
        name, valence, arousal = result[split][f"d{k}_0"]
        assert name == written[k]
        item = name if modality == "text" else Clip(path=manifest.parent / name)
        expected = model.score([item])[0].tolist()
        assert [float(valence), float(arousal)] == pytest.approx(expected, abs=7e-5)
        if split == "train":
            points.append([float(valence), float(arousal)])
    assert len({entry[1] for split in SPLITS for entry in result[split].values()}) > 3
    # The parameters are those that training normalises with.
    meta = result["meta"]
    assert (meta["modality"], meta["model"], meta["count"]) == (modality, f"{modality}-scorer", 7)
    fitted = VANormalizer.from_coordinates({modality: torch.tensor(points)})
    assert meta["normalization"] == {
        "columns": ["valence", "arousal"],
        "mean": pytest.approx(fitted.mean[modality], abs=1e-9),
        "std": pytest.approx(fitted.std[modality], abs=1e-9),
    }
    assert [path.name for path in output.parent.iterdir()] == ["scores.json"]
    assert str(tmp_path) not in output.read_text()


def test_training_reads_the_file(manifest, scorers, tmp_path):
    output = tmp_path / "scores.json"
    assert _run("text", manifest, output, "--model", scorers["text"]) == 0
    layout = tmp_path / "layout"
    (layout / "preprocess_data").mkdir(parents=True)
    names = "happy,sad,anger,surprise,disgust,fear"
    lines = [f"video_id,clip_id,mode,text,{names}"]
    structure = {"train": {}, "valid": {}, "test": {}}
    for k, (split, text) in enumerate(zip(SPLITS, TEXTS, strict=True)):
        lines.append(f'd{k},0,{split},"{text}",1,0,0,0,0,0')
        structure[split][f"d{k}"] = [f"d{k}_0"]
    (layout / "final_multi_labels.csv").write_text("\n".join(lines) + "\n")
    (layout / "preprocess_data" / "videos_structure.json").write_text(json.dumps(structure))
    corpus = read_authors_text(layout, va_file=output)
    result = json.loads(output.read_text())
    for split in corpus.splits.values():
        for utterance in split.utterances:
            point = tuple(map(float, result[split.name][utterance.id][1:]))
            assert utterance.coordinates["text"] == point
    # A data folder is a manifest of its texts.
    again = tmp_path / "again.json"
    assert _run("text", layout, again, "--model", scorers["text"]) == 0
    assert json.loads(again.read_text()) == result


def test_lexicon(manifest, tmp_path, capsys):
    lexicon = tmp_path / "NRC-VAD-Lexicon.txt"
    lexicon.write_text(
        "Word\tValence\tArousal\tDominance\nhappy\t1.0\t0.75\t0.8\nday\t0.5\t0.25\t0.5\n"
    )
    output = tmp_path / "scores.json"
    assert _run("text", manifest, output, "--lexicon", lexicon) == 0
    assert "4 texts have no word of the lexicon" in capsys.readouterr().err
    result = json.loads(output.read_text())
    assert result["train"]["d0_0"] == ["a happy day", "0.5000", "0.0000"]  # (1, 0.5), (0, -0.5)
    assert result["train"]["d1_0"][1:] == ["0.0000", "0.0000"]
    assert result["meta"]["without_words"] == 4


def test_stopped_run_goes_on(manifest, scorers, tmp_path, capsys):
    """A damaged file stops a run; when it is mended, only it and its batch are scored anew."""
    whole, output = tmp_path / "whole.json", tmp_path / "scores.json"
    options = ("--model", scorers["vision"], "--batch-size", 2)
    assert _run("vision", manifest, whole, *options) == 0
    png = manifest.parent / "png" / "5.png"
    content, times = png.read_bytes(), png.stat()
    png.write_bytes(content[:200])
    assert _run("vision", manifest, output, *options) == 2
    assert f"{png}: damaged or no image" in capsys.readouterr().err
    log = tmp_path / "scores.json.partial"
    assert len(log.read_text().splitlines()) == 3  # what the run is, and two batches
    assert not output.exists()
    with log.open("a") as file:
        file.write('{"half a line')  # as after a kill
    png.write_bytes(content)
    os.utime(png, ns=(times.st_atime_ns, times.st_mtime_ns))
    # Other files must not be opened again: they are not there any more.
    scored = [manifest.parent / "png" / f"{k}.png" for k in range(4)]
    kept = {path: path.read_bytes() for path in scored}
    stamps = {path: path.stat().st_mtime_ns for path in scored}
    for path in scored:
        path.write_bytes(b"x" * len(kept[path]))
        os.utime(path, ns=(stamps[path], stamps[path]))
    assert _run("vision", manifest, output, *options) == 0
    assert "going on after 4 finished utterances" in capsys.readouterr().err
    assert output.read_bytes() == whole.read_bytes()
    assert not log.exists()


def test_another_model_does_not_go_on(manifest, scorers, tmp_path, capsys):
    output = tmp_path / "scores.json"
    png = manifest.parent / "png" / "6.png"
    png.write_bytes(png.read_bytes()[:200])
    options = ("--model", scorers["vision"], "--batch-size")
    assert _run("vision", manifest, output, *options, 2) == 2
    assert _run("vision", manifest, output, *options, 3) == 2
    assert "begun with other options or another model; give the options" in capsys.readouterr().err


def test_killed_run_gives_the_same(manifest, scorers, tmp_path):
    """SIGKILL in the middle; then the same command again."""
    rows = manifest.read_text().splitlines()
    many = [rows[0], *(f"u{k},u{k},{row.split(',', 2)[2]}" for k, row in enumerate(rows[1:] * 12))]
    manifest.write_text("\n".join(many) + "\n")
    whole, output = tmp_path / "whole.json", tmp_path / "scores.json"
    options = ["--model", str(scorers["audio"]), "--batch-size", "2"]
    assert _run("audio", manifest, whole, *options) == 0
    command = f"va score --modality audio --manifest {manifest} --output {output} --device cpu"
    process = subprocess.Popen([sys.executable, "-m", "univa", *command.split(), *options])
    log = tmp_path / "scores.json.partial"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    assert _run("audio", manifest, output, *options) == 0
    assert output.read_bytes() == whole.read_bytes()


def test_log_knows_items_by_their_files(tmp_path):
    from univa.media.manifest import Item

    path = picture(tmp_path / "a.png")

    def key(**changes):
        clip = Clip(path=path, **changes)
        return item_key(Item(id="a", split="train", written="a.png", content=clip))

    before = key()
    assert before == key()
    assert before != key(start=1.0)
    picture(path, level=3)
    assert before != key()
    log = tmp_path / "log"
    with ItemLog(log, {"run": 1}, mend="delete it"):
        pass
    assert not log.exists()  # nothing was finished
    with ItemLog(log, {"run": 1}, mend="delete it") as first:
        first.keep(["a", "b"], [[1.5], [2.5]])
    with ItemLog(log, {"run": 1}, mend="delete it") as second:
        assert second.done == {"a": [1.5], "b": [2.5]}


def _no_column(path):
    path.write_text(path.read_text().replace("audio", "sound"))


def _twice(path):
    path.write_text(path.read_text().replace("d1_0", "d0_0"))


def _split(path):
    path.write_text(path.read_text().replace(",valid,", ",holdout,"))


def _no_file(path):
    (path.parent / "wav" / "3.wav").unlink()


def _only_header(path):
    path.write_text(path.read_text().splitlines()[0] + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_no_column, "row 1: no column 'audio'; the columns are id, dialogue, split, text, sound"),
        (_twice, "row 3: id 'd0_0' comes twice, first in row 2; make ids unique"),
        (_split, "row 5: split 'holdout' is none of train, valid, test; mend it"),
        (_no_file, "3.wav: no such file; mend the path"),
        (_only_header, "no row in it; give one row per utterance"),
        (lambda path: path.unlink(), "no such file; give the path of a manifest"),
    ],
)
def test_odd_manifests_are_one_line(manifest, scorers, tmp_path, capsys, damage, message):
    damage(manifest)
    output = tmp_path / "out" / "scores.json"
    output.parent.mkdir()
    output.write_text("before")
    assert _run("audio", manifest, output, "--model", scorers["audio"]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("univa:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert output.read_text() == "before"
    assert len(list(output.parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --model and --lexicon"),
        (("--model", "{audio}", "--lexicon", "a"), "give one of --model and --lexicon"),
        (("--lexicon", "a"), "--lexicon scores text, not audio; give a --model"),
        (
            ("--model", "{text}"),
            "not the config of an audio VA scorer (its kind is 'univa-text-va')",
        ),
        (("--model", "{none}"), "no such folder; give the folder of a model"),
        (("--model", "{audio}", "--order", "valence", "arousal"), "leave out --order"),
        (("--model", "{audio}", "--frames", "3"), "--frames is for vision; leave it out for audio"),
        (("--model", "{audio}", "--max-seconds", "0"), "max_seconds: 0.0 is not above 0"),
        (("--model", "{audio}", "--batch-size", "0"), "batch_size: 0 is less than 1"),
    ],
)
def test_odd_options_are_one_line(manifest, scorers, tmp_path, capsys, options, message):
    paths = {**scorers, "none": tmp_path / "none"}
    given = [option.format(**paths) for option in options]
    assert _run("audio", manifest, tmp_path / "scores.json", *given) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("univa:")]
    assert len(errors) == 1
    assert message in errors[0]
