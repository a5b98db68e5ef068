"""Train a preset whole and without its parts, and tabulate test figures over seeds.

    univa ablate demo
    univa ablate mosei-roberta --data DIR --text-encoder DIR --seeds 1111 1112 1113 --tables 2 3

Table 2 of the paper takes away the contrastive loss (VA-CL) and the emotion-correlation prior
(VA-ECP), Table 3 modalities. Every cell is a run folder of its own in --folder; a command that was
stopped goes on where it was when it is given again. What is not an option of the ablation is an
option of `univa train`, for every run.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from univa.batch import Modality
from univa.config import TrainConfig
from univa.data import Corpus
from univa.data.build import check_corpus, load_corpus
from univa.errors import UserError
from univa.paper.published import PAPER
from univa.runs.layout import RunFolder
from univa.utils import console
from univa.utils.files import atomic_write_json, atomic_write_text, make_folder

__all__ = ["TABLES", "run_ablation", "run_name", "table_cells"]

_Change = Callable[[TrainConfig], TrainConfig]


def _without_contrastive(config: TrainConfig) -> TrainConfig:
    return replace(config, loss=replace(config.loss, alpha=0.0))


def _without_prior(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        model=replace(config.model, prior=False),
        data=replace(config.data, lexicon=None),
        loss=replace(config.loss, prior=None),
    )


def _only(*modalities: Modality) -> _Change:
    def change(config: TrainConfig) -> TrainConfig:
        data = config.data
        if "text" not in modalities:  # these are options of text, and refused without it
            data = replace(data, va_file=None, batch_tokens=0, context=True)
        return replace(config, model=replace(config.model, modalities=modalities), data=data)

    return change


# table -> row -> what it changes
TABLES: dict[int, dict[str, _Change]] = {
    2: {
        "UniVA": lambda config: config,
        "w/o VA-CL": _without_contrastive,
        "w/o VA-ECP": _without_prior,
        "w/o VA-CL, VA-ECP": lambda config: _without_prior(_without_contrastive(config)),
    },
    3: {
        "UniVA": lambda config: config,
        "w/o Vision": _only("text", "audio"),
        "w/o Audio": _only("text", "vision"),
        "w/o Vision, Audio": _only("text"),
        "w/o Text, Vision": _only("audio"),
        "w/o Text, Audio": _only("vision"),
    },
}
# table -> heading, figure of metrics.json, factor, decimals
_COLUMNS: dict[int, list[tuple[str, str, float, int]]] = {
    2: [
        ("Acc", "accuracy", 100, 1),
        ("HL", "hamming_loss", 1, 3),
        ("miF1", "micro_f1", 100, 1),
        ("maF1", "macro_f1", 100, 1),
    ],
    3: [("Acc", "accuracy", 100, 1), ("miF1", "micro_f1", 100, 1)],
}


def run_ablation(
    config: TrainConfig, *, seeds: Sequence[int], tables: Sequence[int] | None, folder: Path
) -> str:
    """Train what is missing, and make the tables.

    Every row is checked against the data before the first run; a row that the data cannot train is
    left out, and said so. A table is written before the next one is begun.

    Args:
        config: the whole model's run; its seed and folder do not matter.
        seeds: one run of every row each.
        tables: 2, 3 or both; None for those that say something about this model.
        folder: of the runs and of `tables.md`, `tables.json`.

    Returns:
        The tables in Markdown.

    Raises:
        UserError: bad data or options; a run in the folder is of another config; nothing is left
            of a table that was asked for.
        Interrupted: a signal came; the run under way is saved.
    """
    plan, notes = _plan(config, seeds, tables, folder)
    for table, said in notes.items():
        if table not in plan:
            console.note(said)
    make_folder(folder)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    parts: list[str] = []
    for table, rows in plan.items():
        for row, change in rows.items():
            for seed in seeds:
                if seed not in results.setdefault(row, {}):
                    run = folder / run_name(row, seed)
                    results[row][seed] = _metrics(change(replace(config, seed=seed)), run)
        note = f"\n{notes[table]}\n" if table in notes else ""
        parts.append(_table(config.preset, table, rows, results) + note)
        atomic_write_json(
            folder / "tables.json",
            {
                row: {str(seed): one["test"] for seed, one in runs.items()}
                for row, runs in results.items()
            },
        )
        atomic_write_text(folder / "tables.md", "\n".join(parts))
    return "\n".join(parts)


def _plan(
    config: TrainConfig, seeds: Sequence[int], tables: Sequence[int] | None, folder: Path
) -> tuple[dict[int, dict[str, _Change]], dict[int, str]]:
    """The rows to train, table by table; and what is left out of a table, in words."""
    plan: dict[int, dict[str, _Change]] = {}
    notes: dict[int, str] = {}
    corpus: Corpus | None = None
    for table in TABLES if tables is None else tables:
        rows, left_out = {}, []
        for row, change in _rows(config, table).items():
            kept = [
                _kept(change(replace(config, seed=seed)), folder / run_name(row, seed))
                for seed in seeds
            ]
            if not all(kept):
                corpus = load_corpus(config) if corpus is None else corpus
                try:
                    check_corpus(change(config), corpus)
                except UserError as error:
                    if row == "UniVA":
                        raise
                    left_out.append(f"{row} ({error})")
                    continue
            rows[row] = change
        if len(rows) > 1:
            plan[table] = rows
            if left_out:
                notes[table] = f"Table {table} is without: {'; '.join(left_out)}."
            continue
        notes[table] = f"Table {table} is left out: this model has no such part to take away"
        if left_out:
            notes[table] = f"Table {table} is left out: {'; '.join(left_out)}"
        if tables is not None:
            raise UserError(f"--tables {table}: {notes[table]}")
    if not plan:
        raise UserError("; ".join(notes.values()))
    return plan, notes


def _rows(config: TrainConfig, table: int) -> dict[str, _Change]:
    """The rows that say something: a part that the model does not have cannot be taken away."""
    rows: dict[str, _Change] = {}
    for row, change in TABLES[table].items():
        if table == 2:
            if "VA-CL" in row and config.loss.alpha == 0:
                continue
            if "VA-ECP" in row and config.loss.prior is None:
                continue
        elif len(config.model.modalities) < 3:  # nothing of the table can be said
            continue
        rows[row] = change
    return rows


def run_name(row: str, seed: int) -> str:
    """Name of the folder of one run of the ablation."""
    return f"{_slug(row)}-{seed}"


def _slug(row: str) -> str:
    return row.lower().replace("w/o ", "without-").replace(", ", "-")


def _kept(config: TrainConfig, run: Path) -> bool:
    """True where a run of this config has been finished in the folder.

    Raises:
        UserError: a run of another config is there.
    """
    if not RunFolder(run).config.exists():
        return False
    changes = TrainConfig.load(RunFolder(run).config).differences(config.resolved())
    if changes:
        raise UserError(
            f"{run}: a run of another config is here ({'; '.join(changes)}); give another --folder"
        )
    return RunFolder(run).metrics.exists()


def _metrics(config: TrainConfig, run: Path) -> dict[str, Any]:
    """The metrics of one run: as they are, or after training what is left of it."""
    from univa.train import train

    if _kept(config, run):
        try:
            content: dict[str, Any] = json.loads(RunFolder(run).metrics.read_text())
            return content
        except (OSError, ValueError) as error:
            raise UserError(f"{run / 'metrics.json'}: not readable ({error})") from None
    begun = RunFolder(run).config.exists()
    config = replace(
        config, resume=str(run) if begun else None, run_folder=None if begun else str(run)
    )
    console.note(f"\n{run.name}")
    metrics = train(config)
    assert metrics is not None  # there is one process
    return metrics


def table_cells(
    preset: str, table: int, results: Mapping[str, Mapping[int, Mapping[str, Any]]]
) -> list[list[str]]:
    """The cells of a table, its head first.

    Args:
        preset: decides whether the paper has figures of it.
        table: 2 or 3.
        results: row -> seed -> content of `metrics.json`; other rows than the table's are left out.

    Returns:
        Rows of equally many cells, in the order of the table.
    """
    paper = PAPER.get(preset, {}).get(table)
    columns = _COLUMNS[table]
    head = [f"Table {table}"]
    for heading, *_ in columns:
        head += [heading, "paper"] if paper else [heading]
    lines = [head]
    for row in TABLES[table]:
        if row not in results:
            continue
        runs = [one["test"] for one in results[row].values()]
        cells = [row]
        for place, (_, key, factor, decimals) in enumerate(columns):
            values = [factor * run[key] for run in runs]
            cell = f"{statistics.mean(values):.{decimals}f}"
            if len(values) > 1:
                cell += f" ± {statistics.stdev(values):.{decimals}f}"
            cells.append(cell)
            if paper:
                cells.append(f"{paper[row][place]:.{decimals}f}")
        lines.append(cells)
    return lines


def _table(
    preset: str,
    table: int,
    rows: dict[str, _Change],
    results: dict[str, dict[int, dict[str, Any]]],
) -> str:
    head, *lines = table_cells(preset, table, {row: results[row] for row in rows})
    lines = [head, ["---"] * len(head), *lines]
    seeds = ", ".join(map(str, results[next(iter(rows))]))
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\nTest split of `{preset}`; seeds {seeds}; ± sample standard deviation.\n"
