"""What the report shows: tables, cases, ablations; and that it is one file."""

import json
import re
import statistics
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from univa.batch import MODALITIES
from univa.cli import main
from univa.data.build import load_corpus
from univa.errors import UserError
from univa.presets import PRESETS
from univa.report.cases import Plane, choose_cases, describe_cases
from univa.report.content import config_table, expand, label_table, main_table
from univa.runs.read import FinishedRun, read_run


class Links(HTMLParser):
    """Everything that a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            if name.split(":")[-1] in ("src", "href", "srcset", "action", "data", "poster"):
                self.found.append(str(value))


def test_it_is_one_file(page: Path):
    text = page.read_text()
    links = Links()
    links.feed(text)
    assert links.found
    assert all(link.startswith("#") for link in links.found)
    assert not links.tags & {"link", "iframe", "img", "object", "embed", "base"}
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src &#39;none&#39;" in text


def test_its_figures_are_those_of_the_run(page: Path, pair):
    text = page.read_text()
    for folder in pair:
        metrics = json.loads((folder / "metrics.json").read_text())["test"]
        cells = [100 * metrics["accuracy"], metrics["hamming_loss"]]
        assert f">{cells[0]:.1f}</td>" in text
        assert f">{cells[1]:.3f}</td>" in text
    rows = label_table([read_run(folder) for folder in pair], ["a", "b"])
    assert len(rows) == 12
    assert [row["first"] for row in rows] == [True, False] * 6
    figures = json.loads((pair[1] / "labels.json").read_text())["test"]["sad"]
    sad = next(row for row in rows if row["label"] == "sad" and row["run"] == "b")
    assert sad["shares"][2] == 100 * figures["f1"]
    assert sad["present"] == figures["present"]


def _as(run: FinishedRun, preset: str, **loss: object) -> FinishedRun:
    config = PRESETS[preset]()
    if "modalities" in loss:
        config = replace(config, model=replace(config.model, modalities=loss.pop("modalities")))
    if "prior" in loss:
        config = replace(
            config, model=replace(config.model, prior=False), loss=replace(config.loss, **loss)
        )
    else:
        config = replace(config, loss=replace(config.loss, **loss))
    return replace(run, config=config)


@pytest.mark.parametrize(
    ("preset", "loss", "title", "accuracy"),
    [
        ("mosei-roberta", {}, "paper, mosei-roberta", "51.3"),
        ("mosei-roberta", {"alpha": 0.0}, "paper, mosei-roberta w/o VA-CL", "50.0"),
        ("m3ed-roberta", {"prior": None}, "paper, m3ed-roberta w/o VA-ECP", "49.1"),
        ("m3ed-glove", {}, "paper, m3ed-glove", "46.4"),
        ("mosei-glove", {}, "paper, mosei-glove", "49.2"),
        ("m3ed-glove", {"alpha": 0.0}, None, ""),
        (
            "mosei-roberta",
            {"modalities": ("text", "audio")},
            "paper, mosei-roberta w/o Vision",
            "51.1",
        ),
        (
            "m3ed-roberta",
            {"modalities": ("vision",)},
            "paper, m3ed-roberta w/o Text, Audio",
            "40.8",
        ),
        ("m3ed-roberta", {"modalities": ("vision",), "alpha": 0.0}, None, ""),
        ("m3ed-glove", {"modalities": ("text",)}, None, ""),
        ("demo", {}, None, ""),
        ("mosei-text", {}, None, ""),
    ],
)
def test_the_papers_row_is_of_the_same_parts(pair, preset, loss, title, accuracy):
    table = main_table([_as(read_run(pair[0]), preset, **loss.copy())], ["run"])
    paper = [row for row in table["rows"] if row["paper"]]
    if title is None:
        assert not paper
        assert preset in table["note"]
    else:
        assert [row["name"] for row in paper] == [title]
        assert paper[0]["cells"][0] == accuracy
        assert ("\u2013" in paper[0]["cells"]) == ("modalities" in loss)  # Table 3 has two figures
        assert not table["note"]


def test_configs_side_by_side(pair):
    rows = config_table([read_run(folder) for folder in pair])
    differ = {row["name"]: row["values"] for row in rows if row["differs"]}
    assert differ["loss.alpha"] == ["0.0", "0.2"]
    assert set(differ) == {"loss.alpha", "run_folder"}


def test_cases_are_chosen_by_rule():
    labels = torch.zeros(60, 3, dtype=torch.bool)
    labels[:6, 0] = labels[6:9, 1] = labels[9:11, 2] = True  # most have no emotion
    first = labels.clone()
    first[3:6] = False
    first[8, 1] = first[10, 2] = False
    second = labels.clone()
    second[40] = True
    spread = torch.zeros(60)
    spread[55] = 1.0
    chosen = choose_cases(labels, [first, second], spread, most=9)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 9
    right = (first == labels).all(1)
    for label in range(3):
        has = [i for i in chosen if labels[i, label]]
        assert any(right[i] for i in has)
        assert any(not right[i] for i in has)
    assert 55 in chosen  # its modalities disagree
    assert any(not labels[i].any() for i in chosen)
    assert choose_cases(labels, [first, second], spread, most=9) == chosen
    assert choose_cases(labels, [first], spread, most=60) == list(range(60))
    assert len(choose_cases(labels, [labels], torch.zeros(60), most=59)) == 59


def test_the_plane():
    unit = Plane.around(torch.tensor([[0.2, -1.0], [1.0, 0.5]]))
    assert (unit.low, unit.high) == ((-1, -1), (1, 1))
    assert unit.place((0.0, 0.0)) == (50, 50)
    assert unit.place((1.0, 1.0)) == (94, 6)  # up and to the right
    scale = Plane.around(torch.tensor([[1.0, 2.0], [5.0, 2.0]]))
    assert scale.place((1.0, 2.0)) == (6, 94)
    assert scale.place((5.0, 2.0)) == (94, 94)


def test_a_folder_of_an_ablation_gives_tables_and_runs(pair, tmp_path: Path):
    without, whole = pair
    for row, folder in (("univa", whole), ("without-va-cl", without)):
        (tmp_path / f"{row}-1111").symlink_to(folder)
    results = {
        row: {
            seed: json.loads((folder / "metrics.json").read_text())["test"]
            for seed in ("1111", "1112")
        }
        for row, folder in (("UniVA", whole), ("w/o VA-CL", without))
    }
    (tmp_path / "tables.json").write_text(json.dumps(results))
    runs, (ablation,) = expand([tmp_path])
    assert [run.name for run in runs] == ["univa-1111", "without-va-cl-1111"]
    assert ablation.preset == "demo"
    assert ablation.seeds == ["1111", "1112"]
    (table,) = ablation.tables
    accuracy = 100 * results["UniVA"]["1111"]["accuracy"]
    assert table[0] == ["Table 2", "Acc", "HL", "miF1", "maF1"]
    assert table[1][:2] == ["UniVA", f"{accuracy:.1f} ± 0.0"]
    assert expand([whole, whole]) == ([whole], [])
    (tmp_path / "tables.json").write_text('{"UniVA": 3}')
    with pytest.raises(UserError, match="not the tables of an ablation"):
        expand([tmp_path])


def test_the_report_of_five_runs(pair, ablation, many_page):
    text = many_page.read_text()
    names = ["with", *(f"{row}-1" for row in ("univa", "without-va-cl", "without-va-ecp"))]
    names.append("without-va-cl-va-ecp-1")
    assert f"<h1>{' · '.join(names)}</h1>" in text
    # Runs of the first seed, tables of both.
    results = json.loads((ablation / "tables.json").read_text())
    for row, seeds in results.items():
        micro = [100 * one["micro_f1"] for one in seeds.values()]
        assert len(micro) == 2
        cell = f"{statistics.mean(micro):.1f} ± {statistics.stdev(micro):.1f}"
        assert re.search(rf'<th scope="row">{row}</th>.*<td class="n">{cell}</td>', text)
    folders = [pair[1], *(ablation / name for name in names[1:])]
    for name, folder in zip(names, folders, strict=True):
        test = json.loads((folder / "metrics.json").read_text())["test"]
        row = re.search(rf'<tr><th scope="row">{name}<span.*', text).group()
        cells = [f"{100 * test['accuracy']:.1f}", f"{test['hamming_loss']:.3f}"]
        assert re.findall(r'<td class="n">([\d.]+)</td>', row)[:2] == cells
    # Every run has three maps, figures of its own (two have no prior), and a verdict on each row.
    assert re.findall(r'<figcaption><b>text</b> <span class="run">(.+?)</span>', text) == names
    shown = re.findall(
        r'<figcaption><b>(\S.*?)</b> <span class="run">(.+?)</span><span class', text
    )
    for name in names:
        titles = [title for title, run in shown if run == name and title not in MODALITIES]
        prior = [] if "ecp" in name else ["Emotion correlation"]
        assert titles == [*prior, "Training", "Thresholds", "Co-occurrence of emotions"]
    rights = [
        [row["labels"] == row["predictions"] for row in map(json.loads, lines)]
        for folder in folders
        for lines in [(folder / "predictions.jsonl").read_text().splitlines()]
    ]
    expected = ["".join("01"[right] for right in rows) for rows in zip(*rights, strict=True)]
    assert re.findall(r'data-right="(\d+)"', text) == expected


def test_the_report_of_an_ablation_shows_its_tables(pair, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("univa.report.drawings.run_figures", lambda *_: [])
    without, whole = pair
    results = {}
    for row, name, folder in (
        ("UniVA", "univa", whole),
        ("w/o VA-CL", "without-va-cl", without),
    ):
        (tmp_path / f"{name}-7").symlink_to(folder)
        results[row] = {"7": json.loads((folder / "metrics.json").read_text())["test"]}
    (tmp_path / "tables.json").write_text(json.dumps(results))
    assert main(["report", str(tmp_path), "--points", "20"]) == 0
    assert capsys.readouterr().out == f"report in {tmp_path / 'report.html'}\n"
    text = (tmp_path / "report.html").read_text()
    assert "The parts of Table 2 of the paper, <code>demo</code>; mean of seed 7" in text
    assert '<th scope="row">w/o VA-CL</th>' in text


def test_cases_tell_what_the_corpus_and_the_runs_say(pair):
    runs = [read_run(folder) for folder in pair]
    split = load_corpus(runs[0].config).test
    found = describe_cases(runs, ["a", "b"], split, most=9)
    by_id = {one.id: one for one in split.utterances}
    said = [
        {row["id"]: row for row in map(json.loads, (f / "predictions.jsonl").open())} for f in pair
    ]
    names = runs[0].label_names
    assert len(found["rows"]) == 9
    assert found["total"] == len(split) > 9
    for row in found["rows"]:
        one = by_id[row["id"]]
        assert row["text"] == one.text
        scores = {point["modality"]: point["score"] for point in row["points"]}
        assert scores == one.coordinates
        assert [*scores] == [*MODALITIES]
        for point in row["points"]:
            assert point["place"] == found["plane"].place(point["score"])
        for verdict, rows in zip(row["said"], said, strict=True):
            own = rows[row["id"]]
            truth = {n for n, flag in zip(names, own["labels"], strict=True) if flag}
            predicted = {n for n, flag in zip(names, own["predictions"], strict=True) if flag}
            assert set(row["truth"]) == truth
            assert {one["name"] for one in verdict["labels"]} == predicted
            assert {one["name"] for one in verdict["labels"] if one["hit"]} == predicted & truth
            assert set(verdict["missed"]) == truth - predicted
            assert verdict["right"] == (truth == predicted)
            for label in verdict["labels"]:
                chance = own["probabilities"][names.index(label["name"])]
                assert label["chance"] == pytest.approx(chance, abs=1e-6)
