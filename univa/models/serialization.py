"""Model folders: a readable configuration and a card beside weights in safetensors."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from univa.errors import UserError
from univa.models.card import CARD_FILE
from univa.utils.files import atomic_path, atomic_write_text

__all__ = ["CONFIG_FILE", "ENCODER_FOLDER", "WEIGHTS_FILE", "load_weights", "save"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
ENCODER_FOLDER = "text_encoder"


def save(
    model: nn.Module,
    folder: Path,
    *,
    config_json: str,
    card: str,
    text_encoder: nn.Module | None,
    tokenizer: Any,
    extra_metadata: Mapping[str, str] | None,
) -> None:
    """Write a model folder, see `UniVA.save_pretrained`.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if text_encoder is not None or tokenizer is not None:
            _save_encoder(folder, text_encoder, tokenizer)
        with atomic_path(folder / WEIGHTS_FILE) as temporary:
            save_file(_separate(model.state_dict()), temporary, metadata=dict(extra_metadata or {}))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: cannot write the model: {error}") from error
    atomic_write_text(folder / CARD_FILE, card)
    # Last, so that a folder with a configuration has everything else.
    atomic_write_text(folder / CONFIG_FILE, config_json)


def _save_encoder(folder: Path, text_encoder: nn.Module | None, tokenizer: Any) -> None:
    (folder / ENCODER_FOLDER).mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{ENCODER_FOLDER}-", dir=folder) as scratch:
        if text_encoder is not None:
            text_encoder.config.save_pretrained(scratch)  # type: ignore[union-attr, operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
        for file in sorted(Path(scratch).rglob("*")):
            if file.is_file():
                target = folder / ENCODER_FOLDER / file.relative_to(scratch)
                with atomic_path(target) as temporary:
                    shutil.move(file, temporary)


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors of which no two share memory, as safetensors asks for."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model with the weights of a safetensors file, all of them or none.

    Raises:
        UserError: the file is missing or broken, or its keys or shapes are not the model's.
    """
    state = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name, tensor in state.items():
                if name not in names:
                    raise UserError(
                        f"{path}: no {name!r} in this checkpoint; it was made with another config"
                    )
                shape = list(file.get_slice(name).get_shape())
                if shape != list(tensor.shape):
                    raise UserError(
                        f"{path}: {name!r} is {shape}, the config asks for {list(tensor.shape)}; "
                        "it was made with another config"
                    )
            extra = sorted(names - set(state))
            if extra:
                raise UserError(
                    f"{path}: the config has no place for {extra[0]!r}; "
                    "the checkpoint was made with another config"
                )
            with torch.no_grad():
                for name, tensor in state.items():
                    tensor.copy_(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot read the weights: {error}") from error
