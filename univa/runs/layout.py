"""The files of a run folder, and the trained model in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from univa.config import TrainConfig
from univa.models import UniVA
from univa.models.serialization import ENCODER_FOLDER
from univa.runs.checkpoint import load_checkpoint
from univa.utils.tokenizer import load_tokenizer

__all__ = ["RunFolder", "Trained", "load_tokenizer_of", "load_trained"]


@dataclass(frozen=True)
class RunFolder:
    """Paths in a run folder; nothing is read or made.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The run's config."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Versions and machine."""
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        """One JSON object for each step and epoch."""
        return self.path / "log.jsonl"

    @property
    def metrics(self) -> Path:
        """Metrics of the best epoch; there when the run is finished."""
        return self.path / "metrics.json"

    @property
    def predictions(self) -> Path:
        """Predictions of the test split."""
        return self.path / "predictions.jsonl"

    @property
    def label_figures(self) -> Path:
        """Figures of each label, by split."""
        return self.path / "labels.json"

    @property
    def threshold_curves(self) -> Path:
        """Metrics by threshold, by split."""
        return self.path / "threshold_curves.json"

    @property
    def best(self) -> Path:
        """Checkpoint of the best epoch."""
        return self.path / "checkpoints" / "best"

    @property
    def last(self) -> Path:
        """Checkpoint to resume from."""
        return self.path / "checkpoints" / "last"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The model of a run's best epoch, and what it needs to predict.

    Attributes:
        model: in evaluation mode.
        tokenizer: of the text encoder; None with word vectors.
        config: of the run.
        thresholds: label -> decision threshold, in the order of the labels.
        epoch: which epoch it is of.
    """

    model: UniVA
    tokenizer: Any
    config: TrainConfig
    thresholds: dict[str, float]
    epoch: int


def load_trained(
    run: Path, *, config: TrainConfig | None = None, device: torch.device | None = None
) -> Trained:
    """Load the model of a run's best epoch with its tokenizer and thresholds.

    Args:
        run: the run folder.
        config: its config, where it is read already.
        device: where the model goes; None leaves it on the CPU.

    Raises:
        UserError: this is no run folder, or its config or checkpoint cannot be read.
    """
    layout = RunFolder(run)
    config = TrainConfig.load(layout.config) if config is None else config
    meta = load_checkpoint(layout.best, config=config, best=True).meta
    model = UniVA.from_pretrained(layout.best)
    return Trained(
        model=model if device is None else model.to(device),
        tokenizer=load_tokenizer_of(layout.best, config),
        config=config,
        thresholds={name: float(meta["thresholds"][name]) for name in config.model.labels},
        epoch=meta["epoch"],
    )


def load_tokenizer_of(checkpoint: Path, config: TrainConfig) -> Any:
    """The tokenizer kept in a checkpoint; None where no text encoder reads the text."""
    return load_tokenizer(checkpoint / ENCODER_FOLDER) if config.uses_tokens else None
