"""Hyper-parameters of a fit."""

from __future__ import annotations

from dataclasses import dataclass

from univa.errors import UserError
from univa.va.regressor import Pooling

__all__ = ["FitSettings"]


@dataclass(kw_only=True)
class FitSettings:
    """How a scorer is fitted, whatever its modality."""

    epochs: int = 5
    """Passes over the training split."""
    patience: int = 0
    """Stop after so many epochs without a better one on dev; 0 goes through all."""
    batch_size: int = 32
    """Rows per step."""
    encoder_learning_rate: float = 8e-5
    """Highest learning rate of the encoder; 0 freezes it, and each row is then encoded once."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of the encoder to the one below; 1 is none."""
    head_learning_rate: float = 1e-3
    """Highest learning rate of the new linear layer."""
    warmup: float = 0.1
    """Part of the steps over which the learning rates rise from 0; then they fall to 0."""
    weight_decay: float = 0.01
    """AdamW weight decay of matrices; biases and layer norms have none."""
    average: float = 0.0
    """Decay of a moving average of the weights, which is what is scored and saved; 0 is none."""
    concordance_weight: float = 0.5
    """Weight of 1 - CCC in the loss; the rest is the squared error of standardised scores."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    pooling: Pooling = "mean"
    """Over the encoder's states: mean, or mean and maximum side by side."""
    dropout: float = 0.1
    """Dropout before the linear layer. The encoder keeps its own."""
    resamples: int = 1000
    """Bootstrap samples of the test rows for the intervals of the figures."""
    seed: int = 1111
    """Seed of initialisation, order and dropout."""

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs >= 1,
            "patience": self.patience >= 0,
            "batch_size": self.batch_size >= 2,
            "encoder_learning_rate": 0 <= self.encoder_learning_rate < 1,
            "layer_decay": 0 < self.layer_decay <= 1,
            "head_learning_rate": 0 < self.head_learning_rate < 1,
            "warmup": 0 <= self.warmup <= 1,
            "weight_decay": 0 <= self.weight_decay < 1,
            "average": 0 <= self.average < 1,
            "concordance_weight": 0 <= self.concordance_weight <= 1,
            "clip": self.clip > 0,
            "dropout": 0 <= self.dropout < 1,
            "resamples": self.resamples >= 100,
        }
        for name, fine in checks.items():
            if not fine:
                raise UserError(f"{name}: {getattr(self, name)} is out of range; see --help")
