"""Checks of the model's inputs. Values are looked at on the CPU only: elsewhere it would wait."""

from __future__ import annotations

import torch
from torch import Tensor

from univa.batch import FeatureSequence, TokenizedDialogues

__all__ = ["check_dialogues", "check_sequence"]


def check_sequence(name: str, value: object, *, feature_size: int, max_length: int) -> None:
    """Check one modality's feature vectors.

    Args:
        name: the argument, for messages.
        value: what was given for it.
        feature_size: F that the model was made for.
        max_length: longest T that the model was made for.

    Raises:
        ValueError: `value` is not a `FeatureSequence` of that size with a step in every row.
    """
    if not isinstance(value, FeatureSequence):
        raise ValueError(f"{name} must be a FeatureSequence, got {type(value).__name__}")
    features, mask = value.features, value.mask
    if features.dim() != 3 or not features.is_floating_point():
        raise ValueError(
            f"{name}.features must be floating-point [B, T, F], got {_describe(features)}"
        )
    if features.shape[2] != feature_size:
        raise ValueError(
            f"{name}.features has {features.shape[2]} values per step, "
            f"the configuration's {name}_dim is {feature_size}"
        )
    if features.shape[1] > max_length:
        raise ValueError(
            f"{name}.features has {features.shape[1]} steps, "
            f"the configuration's max_{name}_length is {max_length}"
        )
    _check_mask(f"{name}.mask", mask, features.shape[:2])


def check_dialogues(
    name: str, value: object, *, max_tokens: int | None, vocabulary_size: int
) -> None:
    """Check token rows and where the utterances lie in them.

    Args:
        name: the argument, for messages.
        value: what was given for it.
        max_tokens: longest row that the encoder takes, None for any.
        vocabulary_size: ids that the encoder knows.

    Raises:
        ValueError: `value` is not a `TokenizedDialogues` that fits.
    """
    if not isinstance(value, TokenizedDialogues):
        raise ValueError(
            f"{name} must be TokenizedDialogues for a text encoder, got {type(value).__name__}"
        )
    ids, seen, row = value.input_ids, value.attention_mask, value.dialogue_index
    if ids.dim() != 2:
        raise ValueError(f"{name}.input_ids must be [G, T], got {_describe(ids)}")
    if seen.shape != ids.shape:
        raise ValueError(
            f"{name}.attention_mask must be {list(ids.shape)} as input_ids, got {_describe(seen)}"
        )
    if row.dim() != 1 or row.dtype != torch.int64:
        raise ValueError(f"{name}.dialogue_index must be [B] int64, got {_describe(row)}")
    if max_tokens is not None and ids.shape[1] > max_tokens:
        raise ValueError(
            f"{name}.input_ids has {ids.shape[1]} tokens in a row, the text encoder takes "
            f"{max_tokens}"
        )
    mask = value.utterance_mask
    _check_mask(f"{name}.utterance_mask", mask, torch.Size((len(row), ids.shape[1])))
    if not _readable(ids):
        return
    if len(row) and not 0 <= int(row.min()) <= int(row.max()) < len(ids):
        raise ValueError(
            f"{name}.dialogue_index must be in 0..{len(ids) - 1}, "
            f"got {int(row.min())}..{int(row.max())}"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary_size:
        raise ValueError(
            f"{name}.input_ids must be in 0..{vocabulary_size - 1}, got "
            f"{int(ids.min())}..{int(ids.max())}: is the tokenizer the text encoder's own?"
        )
    if bool((mask & (seen[row] == 0)).any()):
        raise ValueError(f"{name}.utterance_mask picks a token that attention_mask leaves out")


def _check_mask(name: str, mask: Tensor, shape: torch.Size) -> None:
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(f"{name} must be {list(shape)} bool, got {_describe(mask)}")
    if _readable(mask):
        filled = mask.any(dim=1)
        if not bool(filled.all()):
            empty = int(filled.logical_not().nonzero()[0])
            raise ValueError(f"{name} is all False in row {empty}: no step to look at")


def _readable(tensor: Tensor) -> bool:
    """True where reading a value neither waits for a device nor breaks a compiled graph."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


def _describe(tensor: Tensor) -> str:
    return f"{list(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
