"""README's figures are those of the committed run, and nothing else."""

import pytest

from benchmarks import readme
from benchmarks.report import headline, markdown
from benchmarks.results import FOLDER, PEAK, Result, load, machine, start
from univa.errors import UserError

COMMITTED = sorted(path for path in FOLDER.glob("*.md"))


def test_figures_regenerate_with_no_difference():
    text = readme.README.read_text()
    assert readme.updated(text) == text


def test_the_three_figures_are_there():
    text = readme.README.read_text()
    name = readme._BLOCK.search(text)["name"]
    rows = headline(load(FOLDER / name))
    assert len(rows) == 3
    for what, own, beside in rows:
        assert f"| {what} | {own} | {beside} |" in text


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_reports_regenerate_with_no_difference(path):
    picture = path.with_suffix(".svg")
    run = load(path.with_suffix(".json"))
    assert path.read_text() == markdown(run, picture.name if picture.exists() else None)


def test_no_block_is_refused():
    with pytest.raises(UserError, match="no block"):
        readme.updated("# A README\n")


def test_a_folder_in_the_name_and_a_part_of_the_suite_are_refused(tmp_path, monkeypatch):
    text = readme.README.read_text()
    with pytest.raises(UserError, match="without a folder"):
        readme.updated(text, "results/x.json")
    monkeypatch.setattr(readme, "FOLDER", tmp_path)
    start("cpu", "a test").save(tmp_path / "x.json")
    with pytest.raises(UserError, match="lacks a figure"):
        readme.updated(text, "x.json")


def test_machine_has_no_names_or_paths():
    facts = machine("cpu")
    assert not any("/" in str(value) for value in facts.values())
    assert {"cpu", "threads", "torch", "python", "pykeops", "busy_before_percent"} <= set(facts)


def test_reports_tell_the_number_of_rounds():
    run = start("cpu", "a test")
    run.workloads["memory N=8 D=2"] = {
        "kind": "memory",
        "facts": {"size": 8, "dim": 2},
        "budget_seconds": 1,
        "took_seconds": 1,
    }
    for name, values in (("one", [20.0]), ("three", [10.0, 20.0, 40.0])):
        run.results.append(
            Result(
                workload="memory N=8 D=2",
                contender=name,
                figure=PEAK,
                unit="MiB",
                rounds=list(range(len(values))),
                values=values,
            )
        )
    text = markdown(run, None)
    assert "| 20 MiB (1 round) | 20 MiB (15 MiB to 30 MiB; 3) |" in text
