"""A finished run folder, read back for figures and reports."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from univa.config import TrainConfig
from univa.errors import UserError
from univa.metrics import compute_metrics
from univa.runs.checkpoint import load_checkpoint
from univa.runs.layout import RunFolder

__all__ = ["FinishedRun", "check_comparable", "names_of", "read_run"]

_SHARES = ("accuracy", "hamming_loss", "micro_f1", "macro_f1")


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run folder holds, but for the model.

    Attributes:
        folder: the run folder.
        config: its config.
        metrics: the content of `metrics.json`.
        label_figures: split -> label -> precision, recall, f1, present, predicted.
        threshold_curves: split -> what `univa.evaluation.tables.threshold_curves` gives.
        steps: the log's objects of steps.
        epochs: the log's objects of epochs.
        utterance_ids: of the N test utterances.
        labels: [N, L] bool, the truth about them.
        predictions: [N, L] bool.
        probabilities: [N, L] float64.
        similarity: [L, L] float32, the emotion correlation matrix of the best epoch; None in a
            model without prior.
        environment: what the run was made with, or None where it is not recorded.
    """

    folder: Path
    config: TrainConfig
    metrics: dict[str, Any]
    label_figures: dict[str, dict[str, dict[str, float]]]
    threshold_curves: dict[str, dict[str, Any]]
    steps: list[dict[str, Any]]
    epochs: list[dict[str, Any]]
    utterance_ids: tuple[str, ...]
    labels: Tensor
    predictions: Tensor
    probabilities: Tensor
    similarity: Tensor | None
    environment: dict[str, Any] | None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The L emotions."""
        return self.config.model.labels

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.folder.resolve().name

    @property
    def checkpoint(self) -> Path:
        """The model of the best epoch."""
        return RunFolder(self.folder).best


def read_run(folder: Path) -> FinishedRun:
    """Read a run folder.

    Args:
        folder: as `univa train` leaves it.

    Raises:
        UserError: there is no run, it is not finished, or one of its files is broken.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give the folder of a finished training run")
    layout = RunFolder(folder)
    config = TrainConfig.load(layout.config)
    if not layout.metrics.exists():
        raise UserError(
            f"{folder}: this run is not finished; finish it: univa train --resume {folder}"
        )
    load_checkpoint(layout.best, config=config, best=True)
    labels = config.model.labels
    metrics = _object(layout.metrics)
    figures = _object(layout.label_figures)
    curves = _object(layout.threshold_curves)
    try:
        for split in ("valid", "test"):
            _check(all(math.isfinite(metrics[split][key]) for key in _SHARES))
            _check(tuple(figures[split]) == labels)
            _check(all(len(curves[split][k]) == len(curves[split]["threshold"]) for k in _SHARES))
        _check(set(metrics["thresholds"]) == set(labels))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: metrics.json, labels.json and threshold_curves.json are not whole "
            f"({type(error).__name__}: {error}); make the run anew"
        ) from None
    log = _lines(layout.log)
    steps = [line for line in log if line.get("event") == "step"]
    epochs = [line for line in log if line.get("event") == "epoch"]
    try:
        _check(bool(steps) and bool(epochs))
        drawn = {key for key in steps[0] if key == "prior" or key.startswith("contrastive_")}
        drawn |= {"step", "loss", "classification"}
        _check(all(math.isfinite(line[key]) for line in steps for key in drawn))
        _check(all(math.isfinite(line["valid"][key]) for line in epochs for key in _SHARES))
        _check(all(math.isfinite(line["epoch"]) for line in epochs))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{layout.log}: not the whole log of a run ({type(error).__name__}: "
            f"{error}); make the run anew"
        ) from None
    ids, truth, predictions, probabilities = _predictions(layout.predictions, len(labels))
    computed = compute_metrics(predictions, truth, labels).micro_f1
    if not math.isclose(computed, metrics["test"]["micro_f1"], abs_tol=1e-6):
        raise UserError(
            f"{folder}: predictions.jsonl and metrics.json are not of the same run (micro-F1 "
            f"{computed:.4f} and {metrics['test']['micro_f1']:.4f}); make the run anew"
        )
    return FinishedRun(
        folder=folder,
        config=config,
        metrics=metrics,
        label_figures=figures,
        threshold_curves=curves,
        steps=steps,
        epochs=epochs,
        utterance_ids=ids,
        labels=truth,
        predictions=predictions,
        probabilities=probabilities,
        similarity=_similarity(layout.best) if config.model.prior else None,
        environment=_object(layout.environment) if layout.environment.exists() else None,
    )


def check_comparable(runs: Sequence[FinishedRun]) -> None:
    """Check that runs tell about the same test utterances, so that they can stand side by side.

    Raises:
        UserError: their labels or their test splits differ.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.label_names != first.label_names:
            raise UserError(
                f"{run.folder}: its labels are {' '.join(run.label_names)}, those of "
                f"{first.folder} are {' '.join(first.label_names)}; compare runs of one label set"
            )
        if run.utterance_ids != first.utterance_ids or not torch.equal(run.labels, first.labels):
            raise UserError(
                f"{run.folder}: its test utterances are not those of {first.folder}; compare runs "
                "on one corpus"
            )


def names_of(runs: Sequence[FinishedRun]) -> list[str]:
    """A name for each run, all different: the folder's own, with its parents where need be."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [str(run.folder) for run in runs]


def _check(holds: bool) -> None:
    if not holds:
        raise ValueError("a value is missing or not a number")


def _object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON ({error}); make the run anew") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object; make the run anew")
    return content


def _lines(path: Path) -> list[dict[str, Any]]:
    rows = []
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} is not an object")
                rows.append(row)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as JSON lines ({error})") from None
    return rows


def _predictions(path: Path, number: int) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor]:
    rows = _lines(path)
    try:
        ids = tuple(str(row["id"]) for row in rows)
        columns = [
            torch.tensor([row[key] for row in rows], dtype=torch.float64)
            for key in ("labels", "predictions", "probabilities")
        ]
        _check(all(column.shape == (len(rows), number) for column in columns) and len(rows) > 0)
        _check(all(bool(torch.isfinite(column).all()) for column in columns))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path}: not the predictions of a run ({type(error).__name__}: {error}); make the run "
            "anew"
        ) from None
    truth, predictions, probabilities = columns
    return ids, truth.bool(), predictions.bool(), probabilities


def _similarity(checkpoint: Path) -> Tensor:
    path = checkpoint / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("similarity").float()
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable ({error}); make the run anew") from None
