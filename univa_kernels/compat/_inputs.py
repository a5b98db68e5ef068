"""What the originals accept and `univa_kernels` spells differently."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["CLASS_RADIUS", "class_labels", "views"]

CLASS_RADIUS = 0.5
"""Radius under which integer coordinates are positives exactly when they are equal."""


def views(features: Tensor) -> Tensor:
    """Require [B, V, ...] with V >= 1 views; return [B, V, D]."""
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a tensor [B, V, ...], got {type(features).__name__}")
    if features.dim() < 3 or features.shape[1] == 0:
        raise ValueError(
            f"features must have shape [B, V, ...] with V >= 1 views, got {list(features.shape)}"
        )
    return features.flatten(2)


def class_labels(name: str, labels: Tensor, like: Tensor, like_name: str) -> Tensor:
    """Require one integer for each row of `like`; return them [N], on its device."""
    if not isinstance(labels, Tensor):
        raise TypeError(f"{name} must be an integer tensor [N], got {type(labels).__name__}")
    if labels.is_floating_point() or labels.is_complex():
        raise TypeError(
            f"{name} must be integers, got {labels.dtype}: call {name}.long(), or for continuous "
            "labels use univa_kernels.va_supcon_loss"
        )
    count = like.shape[0]
    if labels.shape not in (torch.Size([count]), torch.Size([count, 1])):
        raise ValueError(
            f"{name} must have shape [N] with one entry for each row of {like_name} ({count}), "
            f"got {list(labels.shape)}"
        )
    return labels.reshape(count).to(like.device)
