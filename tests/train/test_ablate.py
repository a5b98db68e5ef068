"""`univa ablate`: rows, folders that are gone on with, tables beside the paper's."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

import univa.paper.ablate
import univa.train
from tests.train.tiny import options, tiny
from univa.cli import main
from univa.config import TrainConfig
from univa.data.build import load_corpus
from univa.errors import UserError
from univa.paper.ablate import TABLES, _rows, _table, run_ablation
from univa.paper.published import PAPER
from univa.presets import PRESETS, demo, mosei_glove, mosei_text
from univa.train import train
from univa.utils.processes import Interrupted


def test_rows_change_what_they_say():
    full = demo()
    rows = {row: change(full) for table in TABLES for row, change in _rows(full, table).items()}
    assert len(rows) == 9
    assert rows["UniVA"] == full
    assert rows["w/o VA-CL"].differences(full) == ["loss.alpha is 0.0, not 0.2"]
    assert {d.split(" ")[0] for d in rows["w/o VA-ECP"].differences(full)} == {
        "loss.prior",
        "model.prior",
    }
    modalities = {row: config.model.modalities for row, config in rows.items()}
    assert modalities["w/o Audio"] == ("text", "vision")
    assert modalities["w/o Text, Vision"] == ("audio",)


def test_rows_that_say_nothing_are_left_out():
    assert list(_rows(mosei_glove(), 2)) == ["UniVA", "w/o VA-CL"]
    assert _rows(mosei_text(), 3) == {}


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """Names of the runs, of which none is trained: the figures are made up."""
    names: list[str] = []

    def pretend(config: TrainConfig):
        run = Path(str(config.run_folder))
        names.append(run.name)
        metrics = dict.fromkeys(("accuracy", "hamming_loss", "micro_f1", "macro_f1"), 0.5)
        run.mkdir(parents=True)
        config.save(run / "config.json")
        (run / "metrics.json").write_text(json.dumps({"test": metrics}))
        return {"test": metrics}

    monkeypatch.setattr(univa.train, "train", pretend)
    return names


def one_modality() -> TrainConfig:
    config = tiny()
    return replace(config, model=replace(config.model, modalities=("text",)))


def test_a_table_that_does_not_apply_is_known_before_the_first_run(tmp_path, trained, capsys):
    with pytest.raises(UserError, match=r"--tables 3: .* no such part to take away"):
        run_ablation(one_modality(), seeds=[1], tables=[2, 3], folder=tmp_path / "asked")
    assert not trained
    assert not (tmp_path / "asked").exists()
    text = run_ablation(one_modality(), seeds=[1], tables=None, folder=tmp_path / "all")
    assert len(trained) == 4
    assert "Table 3 is left out: this model has no such part" in capsys.readouterr().err
    assert (tmp_path / "all" / "tables.md").read_text() == text


def test_a_row_that_the_data_cannot_train_is_left_out(tmp_path, trained, monkeypatch):
    # As CMU-MOSI, whose texts alone have scores of valence and arousal.
    def without_scores(config: TrainConfig):
        corpus = load_corpus(config)
        for split in corpus.splits.values():
            for utterance in split.utterances:
                del utterance.coordinates["audio"], utterance.coordinates["vision"]
        return corpus

    monkeypatch.setattr(univa.paper.ablate, "load_corpus", without_scores)
    text = run_ablation(tiny(), seeds=[1], tables=[3], folder=tmp_path)
    assert trained == ["univa-1", "without-vision-1", "without-audio-1", "without-vision-audio-1"]
    assert "Table 3 is without: w/o Text, Vision (" in text
    assert "| w/o Text, Vision |" not in text


def test_a_run_of_another_config_is_known_before_the_first_run(tmp_path, trained):
    run_ablation(tiny(epochs=2), seeds=[2], tables=[3], folder=tmp_path)
    trained.clear()
    with pytest.raises(UserError, match="a run of another config is here"):
        run_ablation(tiny(epochs=1), seeds=[1, 2], tables=None, folder=tmp_path)
    assert not trained


def test_a_table_is_written_before_the_next_is_begun(tmp_path, trained, monkeypatch):
    pretend = univa.train.train

    def stopped(config: TrainConfig):
        if len(trained) == 4:
            raise UserError("no more")
        return pretend(config)

    monkeypatch.setattr(univa.train, "train", stopped)
    with pytest.raises(UserError, match="no more"):
        run_ablation(tiny(), seeds=[1], tables=[2, 3], folder=tmp_path)
    assert (tmp_path / "tables.md").read_text().startswith("| Table 2 |")


def test_the_papers_rows_are_ours():
    for preset, tables in PAPER.items():
        for table, rows in tables.items():
            assert list(rows) == list(_rows(PRESETS[preset](), table))


def test_table_has_mean_deviation_and_paper():
    runs = [
        {"accuracy": a, "hamming_loss": 0.2, "micro_f1": a + 0.1, "macro_f1": 0.4}
        for a in (0.5, 0.52, 0.57)
    ]
    rows = _rows(PRESETS["mosei-roberta"](), 2)
    results = {row: {s: {"test": run} for s, run in enumerate(runs)} for row in rows}
    lines = _table("mosei-roberta", 2, rows, results).splitlines()
    assert lines[0] == "| Table 2 | Acc | paper | HL | paper | miF1 | paper | maF1 | paper |"
    deviation = statistics.stdev([50, 52, 57])
    assert lines[3].startswith(
        f"| w/o VA-CL | 53.0 ± {deviation:.1f} | 50.0 | 0.200 ± 0.000 | 0.189"
    )
    one = {row: {7: {"test": runs[0]}} for row in rows}
    assert _table("demo", 2, rows, one).splitlines()[2] == "| UniVA | 50.0 | 0.200 | 60.0 | 40.0 |"


def test_it_trains_resumes_and_is_done_once(tmp_path: Path, monkeypatch, trained):
    folder = tmp_path / "all"
    pretend, begun = univa.train.train, []
    config = tiny(epochs=1)

    def counted(config: TrainConfig):
        begun.append(config)
        if config.resume is not None:
            return train(config)
        if len(begun) == 3:  # as if killed before the last file
            train(config)
            run = Path(str(config.run_folder))
            (run / "metrics.json").unlink()
            raise Interrupted(15, run, 1, 2)
        return pretend(config)

    monkeypatch.setattr(univa.train, "train", counted)
    given = {"seeds": [1, 2], "tables": [2], "folder": folder}
    with pytest.raises(Interrupted):
        run_ablation(config, **given)
    table = run_ablation(config, **given)
    assert len(begun) == 3 + 6  # the one that was stopped goes on, five are new, two are kept
    assert begun[3].resume == str(folder / "without-va-cl-1")
    assert sorted(p.name for p in folder.iterdir() if p.is_dir()) == sorted(
        f"{row}-{seed}"
        for row in ("univa", "without-va-cl", "without-va-ecp", "without-va-cl-va-ecp")
        for seed in (1, 2)
    )
    assert run_ablation(config, **given) == table
    assert len(begun) == 9
    # The figures are those of the runs.
    runs = [folder / f"without-va-cl-{seed}" / "metrics.json" for seed in (1, 2)]
    tests = [json.loads(run.read_text())["test"] for run in runs]
    mean = statistics.mean(100 * test["micro_f1"] for test in tests)
    assert f"| {mean:.1f} ± " in table.splitlines()[3]
    assert (folder / "tables.md").read_text() == table
    with pytest.raises(UserError, match=r"a run of another config is here \(epochs is 1, not 2\)"):
        run_ablation(replace(config, epochs=2), **given)
    # Table 3 shares the whole model's runs.
    run_ablation(config, seeds=[1], tables=[3], folder=folder)
    assert len(begun) == 9 + 5


def test_command_line(tmp_path: Path, capsys, trained):
    folder = tmp_path / "all"
    args = options(tiny())[1:]
    args = args[: args.index("--run-folder")]
    command = ["ablate", "demo", "--seeds", "3", "--tables=2", "--folder", str(folder), *args]
    assert main([*command, "--epochs", "1"]) == 0
    assert "w/o VA-CL, VA-ECP " in capsys.readouterr().out
    assert json.loads((folder / "univa-3" / "config.json").read_text())["seed"] == 3
    for bad, said in (
        (["ablate", "nothing"], "no preset 'nothing'"),
        (["ablate", "demo", "--seeds"], "--seeds: give numbers"),
        (["ablate", "demo", "--seeds", "a"], "--seeds: a are not whole numbers"),
        (["ablate", "demo", "--tables", "4"], "the tables are 2 and 3"),
        (["ablate", "demo", "--run-folder", "x"], "give --folder"),
        (["ablate", "demo", "--seed", "5"], "--seed would not be read: give --seeds"),
    ):
        assert main(bad) == 2
        assert said in capsys.readouterr().err
    assert main(["ablate", "--help"]) == 0
    assert "--seeds" in capsys.readouterr().out
