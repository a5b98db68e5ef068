"""`univa ablate`: rows, folders that are gone on with, tables beside the paper's."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

import univa.train
from tests.train.tiny import options, tiny
from univa.ablate import TABLES, _rows, _table, run_ablation
from univa.cli import main
from univa.config import TrainConfig
from univa.errors import UserError
from univa.paper import PAPER
from univa.presets import PRESETS, demo, mosei_glove, mosei_text
from univa.processes import Interrupted


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
    with pytest.raises(UserError, match="--tables 3: this model has no such part"):
        _rows(mosei_text(), 3)


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


def test_it_trains_resumes_and_is_done_once(tmp_path: Path, monkeypatch, capsys):
    folder, begun = tmp_path / "all", []
    train = univa.train.train
    config = tiny(epochs=1)

    def counted(config: TrainConfig):
        begun.append(config)
        result = train(config)
        if len(begun) == 3:  # as if killed before the last file
            run = Path(str(config.run_folder))
            (run / "metrics.json").unlink()
            raise Interrupted(15, run, 1, 2)
        return result

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
    tests = [json.loads((folder / f"univa-{s}/metrics.json").read_text())["test"] for s in (1, 2)]
    mean = statistics.mean(100 * test["micro_f1"] for test in tests)
    assert f"| {mean:.1f} ± " in table.splitlines()[2]
    assert (folder / "tables.md").read_text() == table
    with pytest.raises(UserError, match=r"a run of another config is here \(epochs is 1, not 2\)"):
        run_ablation(replace(config, epochs=2), **given)
    # Table 3 shares the whole model's runs.
    run_ablation(config, seeds=[1], tables=[3], folder=folder)
    assert len(begun) == 9 + 5


def test_command_line(tmp_path: Path, capsys):
    folder = tmp_path / "all"
    args = options(tiny())[1:]
    args = args[: args.index("--run-folder")]
    command = ["ablate", "demo", "--seeds", "3", "--tables=2", "--folder", str(folder), *args]
    assert main([*command, "--epochs", "1"]) == 0
    assert "| w/o VA-CL, VA-ECP |" in capsys.readouterr().out
    assert json.loads((folder / "univa-3" / "config.json").read_text())["seed"] == 3
    for bad, said in (
        (["ablate", "nothing"], "no preset 'nothing'"),
        (["ablate", "demo", "--seeds"], "--seeds: give numbers"),
        (["ablate", "demo", "--seeds", "a"], "--seeds: a are not whole numbers"),
        (["ablate", "demo", "--tables", "4"], "the tables are 2 and 3"),
        (["ablate", "demo", "--run-folder", "x"], "give --folder"),
    ):
        assert main(bad) == 2
        assert said in capsys.readouterr().err
    assert main(["ablate", "--help"]) == 0
    assert "--seeds" in capsys.readouterr().out
