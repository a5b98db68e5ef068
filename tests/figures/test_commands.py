"""`univa figures` and `univa report` from the shell: what they write, and what they refuse."""

import json
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

from tests.figures.test_quality import brute
from tests.train.test_text_encoder import encoder, layout, small  # noqa: F401
from univa.batch import Modality
from univa.cli import main
from univa.config import TrainConfig
from univa.data.build import load_corpus, make_collator
from univa.figures.cli import _check_ours, measure_sample, quality_table
from univa.figures.sample import choose_utterances, load_corpora, sample_training
from univa.models import UniVA
from univa.runs.read import names_of, read_run
from univa.train import train


def error(capsys, *args: object) -> str:
    """The one line that a refused command says."""
    assert main([str(arg) for arg in args]) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    return lines[0].removeprefix("univa: error: ")


def test_figures_of_two_runs(pair, tmp_path: Path, capsys):
    output = tmp_path / "figures"
    args = ["figures", *map(str, pair), "--output", str(output), "--points", "30"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    names = (
        *("map-emotion", "map-valence-arousal", "correlation"),
        *("training", "thresholds", "co-occurrence"),
    )
    expected = {
        f"{n}-{theme}.{kind}"
        for n in names
        for theme in ("light", "dark")
        for kind in ("png", "svg")
    }
    assert {path.name for path in output.iterdir()} == expected | {"figures.json"}
    for path in output.glob("*.svg"):
        width = ET.parse(path).getroot().get("width")
        assert float(width.removesuffix("pt")) == pytest.approx(85 / 25.4 * 72, abs=0.1)
    content = json.loads((output / "figures.json").read_text())
    assert list(content["quality"]) == ["without", "with"]
    for one in content["quality"].values():
        assert set(one) == {"text", "audio", "vision"}
        for found in one.values():
            assert found["radius"] == 0.3
            assert f"{100 * found['purity']:.1f} %" in printed
            assert f"{found['rank_correlation']:.3f}" in printed
    assert content["utterances"]["on the maps"] == 30
    assert len(content["correlation"]["after with"]) == 6
    _check_ours(output)  # the same command may replace them


def test_a_run_records_its_environment(pair):
    environment = read_run(pair[0]).environment
    assert environment is not None
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert environment["device"] == "cpu"


def test_figures_do_not_replace_other_files(run, capsys):
    (run / "figures").mkdir()
    (run / "figures" / "thesis.tex").write_text("years of work")
    said = error(capsys, "figures", run, "--points", 20)
    assert said.startswith(f"{run / 'figures'}: holds other files than figures of this command")
    assert [path.name for path in (run / "figures").iterdir()] == ["thesis.tex"]
    (run / "figures" / "thesis.tex").rename(run / "figures" / "holiday.png")
    (run / "figures" / "figures.json").write_text("{}")
    assert "holds other files" in error(capsys, "figures", run, "--points", 20)
    assert (run / "figures" / "holiday.png").read_text() == "years of work"
    assert "this is a file" in error(capsys, "figures", run, "--output", run / "config.json")
    for output in (".", "..", "/"):
        assert f"{output}: cannot replace this folder" in error(
            capsys, "figures", run, "--output", output
        )


def test_runs_that_are_no_runs(run, tmp_path: Path, capsys):
    for command in ("figures", "report"):
        assert "no such folder" in error(capsys, command, tmp_path / "nothing")
        (tmp_path / "empty").mkdir(exist_ok=True)
        assert "is not the folder of a training run" in error(capsys, command, tmp_path / "empty")
    metrics = (run / "metrics.json").read_text()
    (run / "metrics.json").unlink()
    said = error(capsys, "report", run)
    assert said == f"{run}: this run is not finished; finish it: univa train --resume {run}"
    (run / "metrics.json").write_text("{")
    assert "not readable as JSON" in error(capsys, "report", run)
    (run / "metrics.json").write_text("{}")
    assert "are not whole" in error(capsys, "report", run)
    (run / "metrics.json").write_text(metrics)
    predictions = (run / "predictions.jsonl").read_text()
    flipped = predictions.replace('"predictions": [0,', '"predictions": [1,')
    (run / "predictions.jsonl").write_text(flipped)
    assert "are not of the same run" in error(capsys, "report", run)
    (run / "predictions.jsonl").write_text('{"id": 3}\n')
    assert "not the predictions of a run" in error(capsys, "report", run)
    (run / "predictions.jsonl").write_text(predictions)
    log = (run / "log.jsonl").read_text()
    first = json.loads(log.splitlines()[0])
    for broken in ("", json.dumps(first) + "\n", log.replace('"classification"', '"other"')):
        (run / "log.jsonl").write_text(broken)
        assert "log.jsonl: not the whole log of a run" in error(capsys, "figures", run)
    (run / "log.jsonl").write_text(log)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text("no JSON")
    assert "not readable as JSON" in error(capsys, "figures", run)
    (run / "config.json").write_text(config)
    (run / "checkpoints" / "best" / "model.safetensors").write_bytes(b"broken")
    assert "model.safetensors" in error(capsys, "figures", run)
    assert not list(run.glob("figures*"))
    assert not list(run.glob("*.html"))


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_runs_that_cannot_be_compared(pair, run, capsys):
    _edit(run / "config.json", lambda c: c["data"]["synthetic"].update(seed=7))
    _edit(
        run / "checkpoints" / "best" / "meta.json",
        lambda c: c["config"]["data"]["synthetic"].update(seed=7),
    )
    # Synthetic utterances have the same ids in every corpus, so the truth gives it away.
    lines = (run / "predictions.jsonl").read_text().splitlines()
    ids = [json.loads(line) | {"id": f"other-{i}"} for i, line in enumerate(lines)]
    (run / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ids))
    assert "its test utterances are not those of" in error(capsys, "report", pair[0], run)
    assert "is the data still what it was?" in error(capsys, "report", run)


def test_runs_of_other_labels(pair, run, capsys):
    names = ["joy", "sad", "anger", "surprise", "disgust", "fear"]

    def rename(content):
        if isinstance(content, dict):
            for key in list(content):
                rename(content[key])
                if key == "happy":
                    old = list(content.items())
                    content.clear()
                    content.update({"joy" if k == "happy" else k: v for k, v in old})
                elif key == "labels" and isinstance(content[key], list):
                    content[key] = names

    for file in ("config.json", "metrics.json", "labels.json", "checkpoints/best/meta.json"):
        _edit(run / file, rename)
    said = error(capsys, "figures", pair[0], run)
    assert said.endswith("compare runs of one label set")
    assert "joy sad anger" in said


@pytest.fixture
def silent(monkeypatch):
    """A function that takes the scores of modalities away from the corpus; nothing is saved."""
    monkeypatch.setattr(
        "univa.figures.cli.save", lambda _, stem: stem.with_name(f"{stem.name}.svg").touch()
    )
    monkeypatch.setattr("univa.report.drawings.run_figures", lambda *_: [])

    def take(*modalities: Modality) -> None:
        def without(config):
            corpus = load_corpus(config)
            for split in corpus.splits.values():
                for utterance in split.utterances:
                    for name in modalities:
                        del utterance.coordinates[name]
            return corpus

        monkeypatch.setattr("univa.figures.sample.load_corpus", without)

    return take


def test_a_modality_without_scores_is_named(run, silent, capsys):
    silent("audio")
    assert main(["figures", str(run), "--points", "20"]) == 0
    remarks = capsys.readouterr().err
    assert "audio has no valence-arousal scores: it has no map by valence-arousal" in remarks
    content = json.loads((run / "figures" / "figures.json").read_text())
    assert set(content["quality"]["run"]) == {"text", "vision"}
    assert main(["report", str(run), "--points", "20"]) == 0
    page = (run / "report.html").read_text()
    assert "audio has no valence-arousal scores" in page


def test_no_scores_at_all(run, silent, capsys):
    silent("text", "audio", "vision")
    assert main(["figures", str(run), "--points", "20"]) == 0
    assert not (run / "figures" / "map-valence-arousal-light.svg").exists()
    assert (run / "figures" / "map-emotion-light.svg").exists()
    assert main(["report", str(run), "--points", "20"]) == 0
    assert 'name="color"' not in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--points", "4"], "--points: 4 is less than 5"),
        (["--points", "50", "--sample", "40"], "--sample: 40 is less than --points 50"),
        (["--neighbors", "0"], "--neighbors: 0 is less than 1"),
        (["--radius", "0"], "--radius: 0 is not a positive number"),
    ],
)
def test_options_out_of_range(pair, capsys, args, words):
    for command in ("figures", "report"):
        assert words in error(capsys, command, pair[0], *args)


def test_numbers_fit_80_columns(pair):
    runs = [read_run(folder) for folder in pair]
    sample = sample_training(runs, load_corpora(runs), limit=20, device=torch.device("cpu"))
    found = measure_sample(sample, neighbors=5, radius=0.3)
    table = quality_table(["long/" * 30 + "a", "long/" * 30 + "b"], found).splitlines()
    assert all(len(line) <= 80 for line in table)
    assert [line.split()[0][-2:] for line in table[1:7]] == ["/a"] * 3 + ["/b"] * 3


def test_long_work_shows_its_progress(run, monkeypatch, capsys):
    monkeypatch.setattr("univa.utils.console.LINE_SECONDS", 0.0)  # a line for each step
    monkeypatch.setattr("univa.report.drawings.inline_svg", lambda *_: "")
    monkeypatch.setattr("univa.figures.cli.save", lambda *_: None)
    assert main(["report", str(run), "--points", "20"]) == 0
    said = capsys.readouterr().err
    assert "embedding, run: 1 of " in said
    assert "laying out: 3 of 3, " in said
    assert "drawing: 8 of 8, " in said
    assert main(["figures", str(run), "--points", "20"]) == 0
    assert "drawing: 12 of 12, " in capsys.readouterr().err
    assert main(["report", str(run), "--points", "20", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_scores_that_differ_between_runs_are_told(pair, run, silent, capsys, monkeypatch):
    def other(config):
        corpus = load_corpus(config)
        if config.run_folder and config.run_folder.endswith("without"):
            for utterance in corpus.train.utterances:
                valence, arousal = utterance.coordinates["audio"]
                utterance.coordinates["audio"] = (-valence, arousal)
        return corpus

    monkeypatch.setattr("univa.figures.sample.load_corpus", other)
    # Corpora of the same data are read once; here they have to differ.
    _edit(run / "config.json", lambda c: c["data"].update(workers=1))
    _edit(run / "checkpoints/best/meta.json", lambda c: c["config"]["data"].update(workers=1))
    assert (
        main(["figures", str(pair[0]), str(run), "--points", "20", "--output", str(run / "f")]) == 0
    )
    said = [line for line in capsys.readouterr().err.splitlines() if "other" in line]
    assert len(said) == 1
    assert said[0].startswith("run was trained with other valence-arousal scores of audio than wi")


def test_how_many_runs(pair, capsys):
    assert "the same run twice" in error(capsys, "figures", pair[0], pair[0])
    assert "takes one or two runs, got 3" in error(capsys, "figures", *pair, pair[0])
    assert "at least one run" in error(capsys, "report")
    assert "--cases: 0" in error(capsys, "report", pair[0], "--cases", 0)


@pytest.mark.parametrize("module", ["matplotlib", "sklearn", "jinja2"])
def test_the_extra_is_named_where_it_is_missing(pair, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    for command in ("figures", "report"):
        said = error(capsys, command, pair[0])
        assert said.endswith("pip install 'univa[figures]'")


def test_names_differ(pair, tmp_path: Path):
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "with").symlink_to(pair[1])
    runs = [read_run(pair[1]), read_run(pair[0])]
    assert names_of(runs) == ["with", "without"]
    assert len(set(names_of([runs[0], read_run(tmp_path / "copy" / "with")]))) == 2


def test_the_numbers_are_of_the_embeddings_of_the_best_epoch(run, silent, capsys):
    """Against the model itself, numpy's normalisation and loops over all pairs."""
    shutil.rmtree(run / "checkpoints" / "last")
    args = [str(run), "--points", "20", "--sample", "30", "--neighbors", "4", "--radius", "0.9"]
    assert main(["figures", *args]) == 0
    content = json.loads((run / "figures" / "figures.json").read_text())
    config = TrainConfig.load(run / "config.json")
    split = load_corpus(config).train
    model = UniVA.from_pretrained(run / "checkpoints" / "best").eval()
    with torch.no_grad():
        batch = make_collator(config, split, model)([*range(len(split))])
        embeddings = model(**batch.inputs).embeddings
    chosen = choose_utterances(len(split), 30)
    assert main(["report", *args]) == 0
    page = (run / "report.html").read_text()
    for name in config.model.modalities:
        scores = split.coordinates(name).double().numpy()
        points = torch.from_numpy((scores - scores.mean(0)) / scores.std(0, ddof=1))
        purity, chance, correlation = brute(embeddings[name][chosen], points[chosen], 4, 0.9)
        found = content["quality"]["run"][name]
        assert found["purity"] == pytest.approx(purity, abs=1e-6)
        assert found["chance"] == pytest.approx(chance, abs=1e-6)
        assert found["rank_correlation"] == pytest.approx(correlation, abs=1e-4)
        assert (found["neighbors"], found["radius"], found["utterances"]) == (4, 0.9, 30)
        said = f"purity {100 * purity:.1f} % (chance {100 * chance:.1f} %) · "
        said += f"\N{GREEK SMALL LETTER RHO} {correlation:.2f}"
        assert said.replace("-", "\N{MINUS SIGN}") in page
    assert "4 nearest neighbours that lie within 0.9 of it" in page


def test_a_run_that_reads_text(layout, encoder, tmp_path, silent, capsys):  # noqa: F811
    """One modality, tokens instead of features, scores beyond [-1, 1]."""
    run = tmp_path / "run"
    train(small(layout, encoder, run))
    capsys.readouterr()
    assert main(["figures", str(run), "--points", "20", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert set(content["quality"]["run"]) == {"text"}
    assert content["notes"] == []
    assert main(["report", str(run), "--points", "20", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(run / "report.html")}
    page = (run / "report.html").read_text()
    assert page.count('<figure class="map">') == 1
    assert "we went there day" in page
