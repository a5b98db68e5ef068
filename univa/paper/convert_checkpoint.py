"""From a checkpoint of the authors' code to a model folder of ours.

    univa convert-checkpoint best_model.pth model --text-encoder roberta-base

The sizes of the model are read off its tensors; the number of attention heads, which leaves no
trace there, is the authors' 12 unless it is given.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from torch import Tensor, nn

from univa.batch import MODALITIES, Modality
from univa.data import M3ED_LABELS, MOSEI_LABELS
from univa.errors import UserError, first_line
from univa.models import ModelConfig, UniVA, from_authors_state_dict
from univa.utils.console import note

__all__ = ["ConvertCheckpoint", "convert_checkpoint", "read_authors_checkpoint"]

_LABELS = {len(labels): labels for labels in (MOSEI_LABELS, M3ED_LABELS)}
_MOST_DEPTH = 3  # wrappers such as {"model": {"state_dict": ...}} around the tensors


def read_authors_checkpoint(path: Path | str) -> dict[str, Tensor]:
    """Read a `.pth` of the authors without running anything in it.

    Args:
        path: the file; a state dict, or a dict with one under "state_dict" or "model".

    Returns:
        Tensors by our names.

    Raises:
        UserError: it holds anything but tensors and plain values, or is not of the authors' model.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # what a broken pickle raises is anybody's guess
        if isinstance(error, pickle.UnpicklingError):  # torch's text is advice to unpickle it
            reason = "it holds more than tensors and plain values, or is damaged"
        else:
            reason = first_line(error)
        raise UserError(f"{path}: refused: {reason}; save the model's state_dict() alone") from None
    for _ in range(_MOST_DEPTH):
        inner = [k for k in ("state_dict", "model") if isinstance(content, dict) and k in content]
        if not inner:
            break
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"{path}: no state dict in it; save the model's state_dict()")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"{path}: {name!r} is {type(value).__name__}, not a tensor")
    try:
        return from_authors_state_dict(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_checkpoint(
    path: Path | str,
    *,
    text_encoder: str | None = None,
    labels: tuple[str, ...] | None = None,
    num_heads: int = 12,
) -> UniVA:
    """Make the model of an authors' checkpoint.

    Args:
        path: the `.pth` file.
        text_encoder: folder or hub name of the encoder that the model was trained with, for its
            configuration; None where the text is word vectors.
        labels: names of the emotions; None takes MOSEI's for six and M3ED's for seven.
        num_heads: attention heads of each layer.

    Returns:
        The model on the CPU, in evaluation mode.

    Raises:
        UserError: as `read_authors_checkpoint`; the parts do not make a model.
    """
    state = read_authors_checkpoint(path)
    config = _configuration(Path(path), state, text_encoder, labels, num_heads)
    encoder: nn.Module | None = None
    if config.text_encoder is not None and "text" in config.modalities:
        encoder = _encoder(config.text_encoder)
    size = len(config.labels)
    model = UniVA(
        config,
        similarity=torch.zeros(size, size) if config.prior else None,
        text_encoder=encoder,
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).replace("\n", " ").replace("\t", "")
        raise UserError(
            f"{path}: its tensors do not make a model with this text encoder: {reason[:300]}"
        ) from None
    return model.eval()


def _encoder(source: str) -> nn.Module:
    from univa.models.encoder import load_text_encoder

    return load_text_encoder(source, weights=False)


def _configuration(
    path: Path,
    state: Mapping[str, Tensor],
    text_encoder: str | None,
    labels: tuple[str, ...] | None,
    num_heads: int,
) -> ModelConfig:
    modalities: tuple[Modality, ...] = tuple(
        m for m in MODALITIES if f"poolings.{m}.query" in state
    )
    if not modalities or "classifier.bias" not in state:
        raise UserError(f"{path}: no whole model (no classifier, or no modality)")
    size = len(state["classifier.bias"])
    labels = labels or _LABELS.get(size)
    if labels is None or len(labels) != size:
        raise UserError(f"{path}: a classifier of {size} labels; name them with --labels")
    reads_tokens = any(name.startswith("encoders.text.pretrained.") for name in state)
    if reads_tokens and text_encoder is None:
        raise UserError(
            f"{path}: this model has a pretrained text encoder; give --text-encoder FOLDER, for "
            "its configuration and tokenizer"
        )
    if not reads_tokens and text_encoder is not None:
        raise UserError(f"{path}: this model reads word vectors; leave --text-encoder out")
    values: dict[str, Any] = {}
    for modality in modalities:
        if modality == "text" and reads_tokens:
            continue
        prefix = f"encoders.{modality}."
        try:
            values[f"{modality}_dim"] = state[f"{prefix}projection.weight"].shape[1]
            values[f"max_{modality}_length"] = len(state[f"{prefix}position_embeddings.weight"])
        except KeyError as error:
            raise UserError(f"{path}: no whole model ({error.args[0]} is missing)") from None
        layers = [
            int(match[1])
            for name in state
            if (match := re.match(re.escape(prefix) + r"layers\.(\d+)\.", name))
        ]
        values[f"{modality}_layers"] = 1 + max(layers, default=-1)
        if layers:
            values["feedforward_size"] = len(state[f"{prefix}layers.0.expand.bias"])
    hidden = len(state[f"poolings.{modalities[0]}.query"])
    if num_heads < 1 or hidden % num_heads:
        raise UserError(
            f"--num-heads: {num_heads} do not divide the hidden size {hidden}; give the number "
            f"that the model was trained with, such as {math.gcd(hidden, 12)}"
        )
    try:
        return ModelConfig(
            labels=labels,
            modalities=modalities,
            hidden_size=hidden,
            num_heads=num_heads,
            initializer_range=None,
            text_encoder=text_encoder,
            prior="similarity" in state,
            **values,
        )
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


@dataclass(kw_only=True)
class ConvertCheckpoint:
    """Turn a .pth of the UniVA authors into a model folder that `UniVA.from_pretrained` reads."""

    checkpoint: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.pth")]
    """The .pth file. It is read without running anything; one that holds more than tensors is
    refused."""
    output: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder for the model; it must not exist."""
    text_encoder: str | None = None
    """Folder or hub name of the text encoder that it was trained with, for configuration and
    tokenizer; leave it out where the text is word vectors."""
    labels: tuple[str, ...] = ()
    """Names of the emotions in order; if left out, those of MOSEI (six) or M3ED (seven)."""
    num_heads: int = 12
    """Attention heads of each layer, which the file does not tell."""

    def run(self) -> dict[str, Any]:
        """Convert and say what it is.

        Raises:
            UserError: as `convert_checkpoint`, or `output` exists.
        """
        from univa.utils.files import atomic_folder
        from univa.utils.tokenizer import load_tokenizer

        if self.output.exists():
            raise UserError(f"{self.output}: exists already; give another folder")
        model = convert_checkpoint(
            self.checkpoint,
            text_encoder=self.text_encoder,
            labels=self.labels or None,
            num_heads=self.num_heads,
        )
        tokenizer = None
        if self.text_encoder is not None:
            try:
                tokenizer = load_tokenizer(self.text_encoder)
            except UserError as error:
                note(f"without a tokenizer: {error}")
        with atomic_folder(self.output) as folder:
            model.save_pretrained(folder, tokenizer=tokenizer)
        count = sum(part.numel() for part in model.parameters())
        print(f"{count} parameters, {', '.join(model.config.modalities)}, in {self.output}")
        return {
            "folder": self.output,
            "parameters": count,
            "modalities": model.config.modalities,
            "labels": model.config.labels,
        }
