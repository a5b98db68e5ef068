"""The model's configuration: a dataclass that travels with every checkpoint as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from univa.batch import MODALITIES, Modality
from univa.errors import UserError

__all__ = ["ModelConfig"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and parts of a `UniVA` model.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    labels: tuple[str, ...]
    """Names of the emotions, in the order of the classifier's outputs."""

    modalities: tuple[Modality, ...] = MODALITIES
    """Which modalities the model sees: any non-empty subset of text, audio, vision."""

    hidden_size: int = 768
    """Width of the modality encoders and of each embedding; a multiple of num_heads."""

    num_heads: int = 12
    """Attention heads of each transformer layer."""

    feedforward_size: int = 3072
    """Width of the feed-forward part of each transformer layer."""

    dropout: float = 0.1
    """Dropout after projections, in attention, after sublayers and before the classifier."""

    layer_norm_eps: float = 1e-12
    """Epsilon of every layer norm outside the text encoder."""

    initializer_range: float | None = 0.02
    """Standard deviation of the initial weights and position embeddings; None: PyTorch's own
    initial values (position embeddings of unit variance), which the authors trained from."""

    text_encoder: str | None = None
    """Folder or hub name of a transformers encoder that reads whole dialogues; None: the text is a
    sequence of word vectors."""

    freeze_text_encoder: bool = False
    """Keep the text encoder as it came: no gradients, no dropout."""

    text_dim: int = 300
    """Size of one word vector; of no effect with a text encoder."""

    audio_dim: int = 768
    """Size of one audio feature vector."""

    vision_dim: int = 512
    """Size of one visual feature vector."""

    text_layers: int = 3
    """Transformer layers over word vectors; of no effect with a text encoder."""

    audio_layers: int = 5
    """Transformer layers over audio features."""

    vision_layers: int = 3
    """Transformer layers over visual features."""

    max_text_length: int = 64
    """Longest sequence of word vectors; of no effect with a text encoder, which has its own."""

    max_audio_length: int = 750
    """Longest sequence of audio features."""

    max_vision_length: int = 100
    """Longest sequence of visual features."""

    prior: bool = True
    """Hold the trainable emotion similarity matrix of the correlation prior."""

    def __post_init__(self) -> None:
        """Check every field, and put the modalities into their one order."""
        labels = tuple(self.labels)
        if (
            isinstance(self.labels, str)
            or not labels
            or not all(isinstance(x, str) for x in labels)
        ):
            raise ValueError(f"labels must be a non-empty sequence of names, got {self.labels!r}")
        if len(set(labels)) != len(labels):
            raise ValueError(f"labels must differ from each other, got {list(labels)}")
        object.__setattr__(self, "labels", labels)

        chosen = self.modalities
        unknown = [name for name in chosen if name not in MODALITIES]
        if isinstance(chosen, str) or not chosen or unknown or len(set(chosen)) != len(chosen):
            raise ValueError(
                f"modalities must be a non-empty subset of {', '.join(MODALITIES)}, got {chosen!r}"
            )
        object.__setattr__(self, "modalities", tuple(m for m in MODALITIES if m in chosen))

        for name in _COUNTS:
            value = getattr(self, name)
            least = 0 if name.endswith("_layers") else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be a whole number of at least {least}, got {value!r}"
                )
        if self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size must be a multiple of num_heads, got {self.hidden_size} and "
                f"{self.num_heads}"
            )
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout!r}")
        if not _is_number(self.layer_norm_eps) or not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps must be in (0, 1), got {self.layer_norm_eps!r}")
        spread = self.initializer_range
        if spread is not None and not (_is_number(spread) and 0 < spread < float("inf")):
            raise ValueError(f"initializer_range must be above 0 or None, got {spread!r}")
        if self.text_encoder is not None and (
            not isinstance(self.text_encoder, str) or not self.text_encoder
        ):
            raise ValueError(
                f"text_encoder must be a folder, a hub name or None, got {self.text_encoder!r}"
            )
        for name in ("freeze_text_encoder", "prior"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")

    def feature_size(self, modality: Modality) -> int:
        """Size of one feature vector of a modality."""
        return int(getattr(self, f"{modality}_dim"))

    def num_layers(self, modality: Modality) -> int:
        """Transformer layers over a modality's features."""
        return int(getattr(self, f"{modality}_layers"))

    def max_length(self, modality: Modality) -> int:
        """Longest feature sequence of a modality: the rows of its position embeddings."""
        return int(getattr(self, f"max_{modality}_length"))

    def to_dict(self) -> dict[str, Any]:
        """Every field, in plain JSON types."""
        return {**asdict(self), "labels": list(self.labels), "modalities": list(self.modalities)}

    def to_json(self) -> str:
        """Every field as indented JSON text, ending in a newline."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str | Path = "config") -> ModelConfig:
        """Build a configuration from `to_dict`'s output.

        Args:
            data: every field by name; none missing, none unknown.
            source: file that the data came from, for messages.

        Raises:
            UserError: a key is missing, unknown or has a bad value.
        """
        if not isinstance(data, Mapping):
            raise UserError(f"{source}: a model configuration is a JSON object of fields")
        names = [field.name for field in fields(cls)]
        for key in data:
            if key not in names:
                raise UserError(
                    f"{source}: unknown key {key!r}; remove it (another version's file?)"
                )
        for name in names:
            if name not in data:
                raise UserError(
                    f"{source}: key {name!r} is missing; add it (another version's file?)"
                )
        values = dict(data)
        for name in ("labels", "modalities"):
            if not isinstance(values[name], list | tuple):
                raise UserError(f"{source}: {name} must be a list, got {values[name]!r}")
            values[name] = tuple(values[name])
        try:
            return cls(**values)
        except ValueError as error:
            raise UserError(f"{source}: {error}") from error

    @classmethod
    def from_json(cls, path: str | Path) -> ModelConfig:
        """Read a configuration file.

        Raises:
            UserError: the file is missing, is not JSON, or holds a bad configuration.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"{path}: cannot read the model configuration ({error.strerror})"
            ) from error
        except ValueError as error:
            raise UserError(f"{path}: not a JSON file ({error})") from error
        return cls.from_dict(data, source=path)


_COUNTS = (
    "hidden_size", "num_heads", "feedforward_size",
    "text_dim", "audio_dim", "vision_dim",
    "text_layers", "audio_layers", "vision_layers",
    "max_text_length", "max_audio_length", "max_vision_length",
)  # fmt: skip


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
