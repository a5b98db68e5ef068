"""The report's tables, as plain data for its template."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from univa.config import TrainConfig
from univa.errors import UserError
from univa.paper.ablate import TABLES, run_name, table_cells
from univa.paper.published import PAPER, PAPER_MAIN
from univa.runs.layout import RunFolder
from univa.runs.read import FinishedRun

__all__ = [
    "Ablation",
    "config_table",
    "environment_table",
    "expand",
    "label_table",
    "main_table",
]

_PAPER_ROW = {
    (True, True): "UniVA",
    (False, True): "w/o VA-CL",
    (True, False): "w/o VA-ECP",
    (False, False): "w/o VA-CL, VA-ECP",
}


# Modalities -> row of Table 3, which has accuracy and micro-F1.
_PAPER_MODALITIES = {
    frozenset(("text", "audio")): "w/o Vision",
    frozenset(("text", "vision")): "w/o Audio",
    frozenset(("text",)): "w/o Vision, Audio",
    frozenset(("audio",)): "w/o Text, Vision",
    frozenset(("vision",)): "w/o Text, Audio",
}


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Tables of a folder of `univa ablate`.

    Attributes:
        folder: where it is.
        preset: what was ablated.
        tables: each a list of rows of cells, the head first.
        seeds: of the runs.
    """

    folder: Path
    preset: str
    tables: list[list[list[str]]]
    seeds: list[str]


def expand(folders: Sequence[Path]) -> tuple[list[Path], list[Ablation]]:
    """Put the runs of an ablation in the place of its folder: those of Table 2, of one seed.

    Args:
        folders: run folders and folders of `univa ablate`.

    Returns:
        Run folders without repetition, and what the ablations found.

    Raises:
        UserError: the tables of an ablation are broken, or its runs are gone.
    """
    runs: list[Path] = []
    ablations = []
    for folder in folders:
        path = folder / "tables.json"
        if RunFolder(folder).config.exists() or not path.exists():
            runs.append(folder)
            continue
        try:
            results: dict[str, dict[int, Any]] = {
                row: {int(seed): {"test": one} for seed, one in seeds.items()}
                for row, seeds in json.loads(path.read_text(encoding="utf-8")).items()
            }
            seeds = sorted({seed for one in results.values() for seed in one})
            found = [
                folder / run_name(row, min(results[row])) for row in TABLES[2] if row in results
            ]
            config = TrainConfig.load(RunFolder(found[0]).config)
            tables = [
                table_cells(config.preset, table, results)
                for table, rows in TABLES.items()
                if len([row for row in rows if row in results]) > 1
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{path}: not the tables of an ablation ({type(error).__name__}: {error}); give "
                "the command `univa ablate` again"
            ) from None
        runs += found
        ablations.append(
            Ablation(
                folder=folder, preset=config.preset, tables=tables, seeds=[str(s) for s in seeds]
            )
        )
    return list(dict.fromkeys(runs)), ablations


def main_table(runs: Sequence[FinishedRun], names: Sequence[str]) -> dict[str, Any]:
    """Test figures of each run, and the paper's for the same preset and parts.

    Returns:
        "rows": name, what it is, cells, and whether it is the paper's; "note" on what is missing.
    """
    rows: list[dict[str, Any]] = []
    for run, name in zip(runs, names, strict=True):
        test, config = run.metrics["test"], run.config
        rows.append(
            {
                "name": name,
                "what": f"{config.preset}, seed {config.seed}, epoch {run.metrics['best_epoch']} "
                f"of {config.epochs}",
                "cells": _cells(
                    100 * test["accuracy"],
                    test["hamming_loss"],
                    100 * test["micro_f1"],
                    100 * test["macro_f1"],
                ),
                "paper": False,
            }
        )
        found = _paper(config)
        if found is not None and not any(row["name"] == found[0] for row in rows):
            title, figures = found
            rows.append({"name": title, "what": "", "cells": _cells(*figures), "paper": True})
    without = sorted({run.config.preset for run in runs if _paper(run.config) is None})
    note = ""
    if without:
        note = (
            f"The paper has no figures for {', '.join(without)} with these parts, so none stand "
            "beside them."
        )
    return {"rows": rows, "note": note}


def _paper(config: TrainConfig) -> tuple[str, tuple[float | None, ...]] | None:
    """The paper's row for a run of this kind: title, figures; None for one that it leaves out."""
    preset = config.preset
    parts = config.loss.alpha > 0, config.loss.prior is not None
    if set(config.model.modalities) != {"text", "audio", "vision"}:
        row = _PAPER_MODALITIES[frozenset(config.model.modalities)]
        found = PAPER.get(preset, {}).get(3, {}).get(row) if all(parts) else None
        if found is None:
            return None
        accuracy, micro = found
        return f"paper, {preset} {row}", (accuracy, None, micro, None)
    # The Glove run on MOSEI has no prior to begin with.
    whole = parts[0] and (parts[1] or preset == "mosei-glove")
    if whole and preset in PAPER_MAIN:
        return f"paper, {preset}", PAPER_MAIN[preset]
    row = _PAPER_ROW[parts]
    figures = PAPER.get(preset, {}).get(2, {}).get(row)
    return None if figures is None else (f"paper, {preset} {row}", figures)


def _cells(*figures: float | None) -> list[str]:
    """Accuracy, Hamming loss, micro-F1, macro-F1."""
    return [
        "\N{EN DASH}" if figure is None else f"{figure:.{decimals}f}"
        for figure, decimals in zip(figures, (1, 3, 1, 1), strict=True)
    ]


def label_table(runs: Sequence[FinishedRun], names: Sequence[str]) -> list[dict[str, Any]]:
    """How each label does on the test split, a row for each label and run."""
    rows = []
    for label in runs[0].label_names:
        for place, (run, name) in enumerate(zip(runs, names, strict=True)):
            one = run.label_figures["test"][label]
            rows.append(
                {
                    "label": label,
                    "first": place == 0,
                    "run": name,
                    "shares": [100 * one[key] for key in ("precision", "recall", "f1")],
                    "present": int(one["present"]),
                    "predicted": int(one["predicted"]),
                    "threshold": float(run.metrics["thresholds"][label]),
                }
            )
    return rows


def config_table(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """Every field of the configs: "name", one "values" per run, "differs"."""
    flat = [_flatten(run.config.to_dict()) for run in runs]
    names = dict.fromkeys(name for one in flat for name in one)
    rows = []
    for name in names:
        values = [one.get(name, "") for one in flat]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def environment_table(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """What each run was made with, as `config_table`; empty where no run has recorded it."""
    found = [run.environment or {} for run in runs]
    names = dict.fromkeys(name for one in found for name in one)
    rows = []
    for name in names:
        values = [str(one.get(name, "not recorded")) for one in found]
        rows.append({"name": name, "values": values, "differs": len(set(values)) > 1})
    return rows


def _flatten(item: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in item.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = ", ".join(map(str, value))
        else:
            flat[prefix + name] = "\N{EN DASH}" if value is None else str(value)
    return flat
