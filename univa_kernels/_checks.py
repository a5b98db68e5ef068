"""Argument checks of the public functions. None of them reads a tensor's values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "as_coordinates",
    "choice",
    "embeddings_2d",
    "groups_1d",
    "in_range",
    "learned_or_fixed",
    "rows_1d",
    "same_device",
]

_FLOATING = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def embeddings_2d(name: str, value: Tensor) -> None:
    """Require a floating [N, D] tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [N, D], got {type(value).__name__}")
    if value.dim() != 2:
        raise ValueError(f"{name} must have shape [N, D], got {list(value.shape)}")
    if value.dtype not in _FLOATING:
        raise TypeError(
            f"{name} must be float32, float64, bfloat16 or float16, got {value.dtype}; "
            f"call {name}.float()"
        )


def as_coordinates(name: str, value: Tensor, like: Tensor, like_name: str) -> Tensor:
    """Require [N] or [N, p] matching `like` [N, D]; return [N, p] float32 or float64."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [N, p], got {type(value).__name__}")
    if value.dim() == 1:
        value = value[:, None]
    if value.dim() != 2 or value.shape[1] == 0:
        raise ValueError(f"{name} must have shape [N, p] or [N], got {list(value.shape)}")
    if value.shape[0] != like.shape[0]:
        raise ValueError(
            f"{name} must have one row for each row of {like_name}: "
            f"{value.shape[0]} against {like.shape[0]}"
        )
    same_device(name, value, like, like_name)
    if value.is_complex():
        raise TypeError(f"{name} must be real, got {value.dtype}")
    if value.dtype in (torch.float32, torch.float64):
        return value
    # Integers are class labels: float64 keeps every one of them apart.
    return value.to(torch.float32 if value.is_floating_point() else torch.float64)


def groups_1d(name: str, value: Tensor | None, like: Tensor, like_name: str) -> Tensor | None:
    """Require integer [N] matching `like` [N, D], or None; return int64."""
    value = rows_1d(name, value, like, like_name)
    if value is None:
        return None
    if value.is_floating_point() or value.is_complex():
        raise TypeError(f"{name} must be integers, got {value.dtype}")
    return value.to(torch.int64)


def same_device(name: str, value: Tensor, like: Tensor, like_name: str) -> None:
    """Require both tensors on one device."""
    if value.device != like.device:
        raise ValueError(
            f"{name} is on {value.device} but {like_name} is on {like.device}; move one of them"
        )


def in_range(
    name: str, value: float, low: float, high: float = math.inf, *, open_low: bool = False
) -> float:
    """Require a finite number with low <= value <= high (low < value if `open_low`)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    # Plain comparisons, all of them False for NaN: torch.compile traces them, not math.isfinite.
    above = value > low if open_low else value >= low
    if not (above and value <= high and value < math.inf):
        bound = f"{'>' if open_low else '>='} {low:g}"
        if high < math.inf:
            bound += f" and <= {high:g}"
        raise ValueError(f"{name} must be finite and {bound}, got {value}")
    return float(value)


def learned_or_fixed(
    name: str, value: float | Tensor, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, float]:
    """Split a positive number or a one-element tensor into (tensor or None, number).

    The value of a tensor is not looked at: that would synchronise with its device.
    """
    if not isinstance(value, Tensor):
        return None, in_range(name, value, 0, open_low=True)
    if value.numel() != 1:
        raise ValueError(f"{name} must be a number or one element, got shape {list(value.shape)}")
    if not value.is_floating_point():
        raise TypeError(f"{name} must be floating, got {value.dtype}")
    if value.device != device:
        raise ValueError(f"{name} is on {value.device} but embeddings are on {device}; move it")
    return value.reshape(()).to(dtype), 1.0


def rows_1d(name: str, value: Tensor | None, like: Tensor, like_name: str) -> Tensor | None:
    """Require floating or integer [N] matching `like` [N, D], or None."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor [N], got {type(value).__name__}")
    if value.shape != like.shape[:1]:
        raise ValueError(
            f"{name} must have shape [N] with one entry for each row of {like_name} "
            f"({like.shape[0]}), got {list(value.shape)}"
        )
    same_device(name, value, like, like_name)
    return value


def choice(name: str, value: object, options: tuple[object, ...]) -> None:
    """Require one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}, got {value!r}")
