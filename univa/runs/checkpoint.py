"""Checkpoints that survive a kill at any moment, and are read without unpickling.

A checkpoint folder holds

    config.json, model.safetensors   the model, as `UniVA.save_pretrained` writes it
    README.md                        the model card
    text_encoder/                    configuration and tokenizer of the text encoder, if it has one
    training_state.pt                optimiser, scheduler and random generators (only in `last`)
    meta.json                        where training stood, for people and for `--resume`

It is written beside its place and renamed into it; a crash never loses the previous one.
"""

from __future__ import annotations

import json
import math
import pickle
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from univa.config import TrainConfig
from univa.errors import UserError, first_line
from univa.models import UniVA
from univa.runs.card import run_facts
from univa.utils.files import atomic_folder, recover_folder

__all__ = [
    "Checkpoint",
    "Progress",
    "load_checkpoint",
    "random_state",
    "restore_random_state",
    "save_checkpoint",
]

META = "meta.json"
STATE = "training_state.pt"


@dataclass(kw_only=True)
class Progress:
    """Where training stands; written to `meta.json` in full.

    Attributes:
        epoch: epochs finished, so also the 0-based index of the epoch under way.
        batch: batches of that epoch that are done.
        step: optimiser steps done in all.
        total_steps: steps that the whole run has; another data set or batch size changes it.
        best_epoch: 1-based epoch with the best validation micro-F1 so far, 0 before the first.
        best_micro_f1: its validation micro-F1, -1 before the first epoch's end.
        log_bytes: size of `log.jsonl` at this point; what comes after is not part of the run.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    total_steps: int = 0
    best_epoch: int = 0
    best_micro_f1: float = -1.0
    log_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as `load_checkpoint` reads it.

    Attributes:
        folder: where it is.
        meta: the content of `meta.json`.
        state: the content of `training_state.pt`, or None in a checkpoint without one.
    """

    folder: Path
    meta: dict[str, Any]
    state: dict[str, Any] | None

    @property
    def progress(self) -> Progress:
        """Where training stood."""
        return Progress(**self.meta["progress"])


def save_checkpoint(
    folder: Path,
    model: UniVA,
    *,
    progress: Progress,
    config: TrainConfig,
    tokenizer: Any = None,
    extra: dict[str, Any] | None = None,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        folder: its place; a checkpoint there is replaced once the new one is whole.
        model: the model, not wrapped by DistributedDataParallel.
        progress: where training stands.
        config: of the run.
        tokenizer: of the text encoder, to be kept with it; None without one.
        extra: more for `meta.json`, such as thresholds and validation metrics.
        state: tensors, numbers, strings, lists and dicts to go on from; None where the checkpoint
            is for inference only.

    Raises:
        UserError: it cannot be written; the one that was there still is.
    """
    known = extra or {}
    card = run_facts(
        config,
        epoch=known.get("epoch"),
        thresholds=known.get("thresholds"),
        metrics={"valid": known["valid"]} if "valid" in known else None,
    )
    try:
        with atomic_folder(folder) as temporary:
            model.save_pretrained(temporary, tokenizer=tokenizer, card=card)
            if state is not None:
                torch.save(state, temporary / STATE)
            meta = {"progress": asdict(progress), **(extra or {}), "config": config.to_dict()}
            (temporary / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch has no type of its own for a full disk
        if "DataLoader worker" in str(error):  # a signal handler's, which came by while writing
            raise
        reason = first_line(error)
        raise UserError(
            f"{folder}: cannot write the checkpoint ({reason}); make room and go on with: univa "
            f"train --resume {folder.parents[1]}"
        ) from error


def load_checkpoint(folder: Path, *, config: TrainConfig, best: bool = False) -> Checkpoint:
    """Read a checkpoint's `meta.json` and training state, and check whose it is.

    Args:
        folder: a checkpoint folder.
        config: of the run that the checkpoint has to belong to.
        best: ask for what the best epoch carries: its number and a threshold for each label.

    Returns:
        The checkpoint. The model itself is read with `UniVA.from_pretrained(folder)`.

    Raises:
        UserError: there is no checkpoint, a file in it is broken, or it is of another config.
    """
    if not recover_folder(folder):
        raise UserError(
            f"{folder}: no checkpoint here; the run was stopped before its first one, start it anew"
        )
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        _check_progress(Progress(**meta["progress"]), config)
        if best:
            _check_best(meta, config)
        written_with = meta["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: not a readable checkpoint description ({error}); use another checkpoint"
        ) from error
    changes = TrainConfig.from_dict(written_with, source=str(path)).differences(config)
    if changes:
        raise UserError(
            f"{path}: this checkpoint is of another config than its run ({'; '.join(changes)} as "
            "in config.json); use the checkpoint of this run, or start anew"
        )
    path = folder / STATE
    state = None
    if path.exists():
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what a broken pickle raises is anybody's guess
            if isinstance(error, pickle.UnpicklingError):  # torch's text is advice to unpickle it
                reason = "it is damaged, or holds more than tensors and plain values"
            else:
                reason = first_line(error)
            raise UserError(
                f"{path}: not a readable training state ({reason}); start the run anew"
            ) from error
        parts = {"optimizer": dict, "scheduler": dict, "random": list}
        if not isinstance(state, dict) or any(
            not isinstance(state.get(name), kind) for name, kind in parts.items()
        ):
            raise UserError(
                f"{path}: not a readable training state (no {', '.join(parts)} in it); start the "
                "run anew"
            )
    return Checkpoint(folder=folder, meta=meta, state=state)


def _check_progress(progress: Progress, config: TrainConfig) -> None:
    """ValueError where training cannot have stood."""
    values = asdict(progress)
    values = {"total_steps": values.pop("total_steps"), **values}  # it bounds the steps
    most = {"epoch": config.epochs, "step": progress.total_steps, "best_epoch": config.epochs}
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if name == "best_micro_f1":
            possible = number and -1 <= value <= 1
        else:
            low = 1 if name == "total_steps" else 0
            possible = isinstance(value, int) and number and low <= value
            possible = possible and not (name in most and value > most[name])
        if not possible:
            raise ValueError(f"progress.{name} is {value!r}")


def _check_best(meta: dict[str, Any], config: TrainConfig) -> None:
    """ValueError or KeyError where the best epoch's decision is not whole."""
    epoch, thresholds = meta["epoch"], meta["thresholds"]
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 1 <= epoch <= config.epochs:
        raise ValueError(f"epoch is {epoch!r}")
    if not isinstance(thresholds, dict):
        raise ValueError(f"thresholds is {thresholds!r}")
    for label in config.model.labels:
        value = thresholds.get(label)
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"thresholds: {label} is {value!r}")


def random_state() -> dict[str, Any]:
    """State of the generators of python, numpy, torch and, where used, CUDA.

    Returns:
        Plain containers and tensors, which `torch.load(weights_only=True)` reads back.
    """
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set the generators to what `random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
