"""A corpus of one's own, from its table to a trained model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.data.own import records, write_csv, write_features, write_lexicon, write_scores
from tests.train.tiny import write_encoder
from univa.cli import main
from univa.cli.train import parse_train
from univa.data import read_store
from univa.data.lexicon import read_lexicon, similarity_matrix

DIALOGUES = {"train": [3, 4, 2, 3], "valid": [3, 2], "test": [3]}
LAYERS = ("--model.num-heads", "2", "--model.feedforward-size", "32")
SMALL = (
    *("--model.hidden-size", "16"),
    *("--epochs", "2", "--device", "cpu", "--no-progress", "--threads", "1"),
)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """Word vectors, audio, frames, scores of each, and three labels."""
    folder = tmp_path_factory.mktemp("own")
    rows = records(DIALOGUES)
    ids = [row["id"] for row in rows]
    args = [str(write_csv(folder / "table.csv", rows)), str(folder / "store")]
    for seed, (modality, size) in enumerate({"text": 8, "audio": 6, "vision": 5}.items()):
        write_features(folder / modality, ids, size, seed=seed)
        write_scores(folder / f"{modality}.csv", ids, seed=seed)
        args += [f"--{modality}-features", str(folder / modality)]
        args += [f"--{modality}-va", str(folder / f"{modality}.csv")]
    assert main(["data", "import-table", *args, "--no-progress"]) == 0
    return folder / "store"


def own(store: Path, *more: object) -> list[str]:
    return ["train", "own", "--data", str(store), *SMALL, *map(str, more)]


def test_preset_fits_the_store(store):
    config = parse_train(own(store, "--loss.alpha", "0.1")[1:])
    corpus = read_store(store, text="vectors")
    assert config.model.labels == corpus.label_names
    assert config.model.modalities == ("text", "audio", "vision")
    assert config.model.text_encoder is None
    for modality, size in {"text": 8, "audio": 6, "vision": 5}.items():
        assert config.model.feature_size(modality) == size
        assert config.model.max_length(modality) == corpus.longest(modality)
    assert config.loss.alpha == 0.1


def test_trains_evaluates_and_takes_the_matrix_from_the_lexicon(store, tmp_path, capsys):
    matrices = []
    for number, points in enumerate((None, {"joy": (1, 1), "sad": (0, 0), "calm": (0.6, 0.1)})):
        lexicon = write_lexicon(tmp_path / f"{number}.txt", points)
        run = tmp_path / f"run{number}"
        options = ("--lexicon", lexicon, "--run-folder", run, "--optimizer.learning-rate", 1e-7)
        assert main(own(store, *LAYERS, *options)) == 0
        weights = load_file(run / "checkpoints" / "last" / "model.safetensors")
        expected = similarity_matrix(
            json.loads((run / "config.json").read_text())["model"]["labels"], read_lexicon(lexicon)
        )
        torch.testing.assert_close(weights["similarity"].double(), expected, rtol=0, atol=1e-5)
        matrices.append(expected)
        content = json.loads((run / "metrics.json").read_text())
        assert 0 <= content["test"]["micro_f1"] <= 1
        capsys.readouterr()
        lexicon.unlink()  # the matrix is in the checkpoint
        assert main(["evaluate", str(run)]) == 0
    assert not torch.allclose(*matrices, atol=0.1)
    terms = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    steps = [line for line in terms if line["event"] == "step"]
    for modality in ("text", "audio", "vision"):
        assert any(line[f"contrastive_{modality}"] != 0 for line in steps)


def refused(capsys, *args: str) -> str:
    assert main(list(args)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_mistakes(store, tmp_path, capsys):
    assert "'joy'; built in are happy, " in refused(capsys, *own(store))
    lexicon = write_lexicon(tmp_path / "v.txt", {"joys": (1, 1), "sad": (0, 0), "calm": (1, 0)})
    message = refused(capsys, *own(store, "--lexicon", lexicon))
    assert "no label 'joy' in this lexicon; nearest entries: joys" in message
    without = ("--loss.prior", "None", "--model.no-prior")
    message = refused(capsys, *own(store, *without, "--lexicon", lexicon))
    assert f"--lexicon: {lexicon} would not be read, there is no correlation prior" in message
    message = refused(capsys, *own(store, *without, "--va-file", "va.json"))
    assert "--va-file: va.json would not be read, the store has scores of its own" in message
    message = refused(capsys, "train", "own", "--no-progress")
    assert message.startswith("univa: error: no data: give --data STORE")
    assert "manifest.jsonl: no such file" in refused(capsys, *own(tmp_path))


def test_store_without_scores_or_features(tmp_path):
    table = write_csv(tmp_path / "table.csv", records(DIALOGUES))
    assert main(["data", "import-table", str(table), str(tmp_path / "store"), "--no-progress"]) == 0
    config = parse_train(own(tmp_path / "store")[1:])
    assert config.model.modalities == ("text",)
    assert config.model.text_encoder is not None
    assert config.loss.alpha == 0


def test_text_encoder_reads_a_store(tmp_path):
    rows = records(DIALOGUES)
    write_scores(tmp_path / "va.csv", [row["id"] for row in rows])
    table = write_csv(tmp_path / "table.csv", rows)
    store, run = tmp_path / "store", tmp_path / "run"
    scores = ("--text-va", str(tmp_path / "va.csv"), "--no-progress")
    assert main(["data", "import-table", str(table), str(store), *scores]) == 0
    encoder = write_encoder(tmp_path / "encoder", ["good", "bad", "a", "day", "film"])
    options = ("--text-encoder", encoder, "--lexicon", write_lexicon(tmp_path / "v.txt"))
    assert main(own(store, *options, "--run-folder", run, "--data.max-tokens", 40)) == 0
    assert json.loads((run / "metrics.json").read_text())["preset"] == "own"


def test_store_without_text(tmp_path, capsys):
    rows = [{**row, "text": ""} for row in records(DIALOGUES)]
    write_features(tmp_path / "audio", [row["id"] for row in rows], 4)
    table, store = write_csv(tmp_path / "table.csv", rows), tmp_path / "store"
    options = ("--audio-features", str(tmp_path / "audio"), "--no-progress")
    assert main(["data", "import-table", str(table), str(store), *options]) == 0
    assert parse_train(own(store)[1:]).model.modalities == ("audio",)
    manifest = store / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-9])
    assert "damaged or cut off" in refused(capsys, *own(store))
