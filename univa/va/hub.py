"""Regression models of others as scorers: any Hugging Face folder whose outputs are dimensions.

Two layouts are read. Models of `transformers` itself (`AutoModelForSequenceClassification` and its
kin for audio and images) have a class there. The dimensional speech models that descend from
audEERING's wav2vec2-large-robust-12-ft-emotion-msp-dim (Wagner et al., TPAMI 2023) name a class
that transformers lacks: an encoder, the mean over its last hidden states, and `classifier.dense`,
tanh, `classifier.out_proj`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from torch import Tensor, nn

from univa.batch import Modality
from univa.errors import UserError, first_line
from univa.media.encoders import LOADING_ERRORS, check_encodes
from univa.media.preprocess import PREPROCESSORS, EncoderInputs, VisionPreprocessor
from univa.utils.quiet import no_load_report
from univa.va.regressor import DIMENSIONS, Scorer

__all__ = ["HubScorer"]

_STOCK: dict[Modality, str] = {
    "text": "AutoModelForSequenceClassification",
    "audio": "AutoModelForAudioClassification",
    "vision": "AutoModelForImageClassification",
}


class HubScorer(Scorer):
    """A regression model with named outputs, of which two are valence and arousal.

    Args:
        model: gives `logits` [B, K].
        preprocessor: makes its input.
        names: of its K outputs, in their order.
        low: its output that stands for the lowest valence and arousal; becomes -1.
        high: its output that stands for the highest; becomes 1.
    """

    def __init__(
        self, model: nn.Module, preprocessor: Any, names: Sequence[str], *, low: float, high: float
    ) -> None:
        super().__init__()
        self.model, self.preprocessor = model, preprocessor
        self.columns = [names.index(name) for name in DIMENSIONS]
        self.low, self.high = low, high

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        modality: Modality,
        *,
        order: Sequence[str] | None = None,
        output_range: tuple[float, float] = (0.0, 1.0),
        **settings: Any,
    ) -> HubScorer:
        """Load a regression model.

        Args:
            source: its folder, with tokenizer or preprocessor, or a hub name.
            modality: what it scores.
            order: names of its outputs in their order, "valence" and "arousal" among them; None
                takes those of its config's `id2label`.
            output_range: outputs that stand for the lowest and the highest valence and arousal.
            settings: of the preprocessor: `max_tokens`, `max_seconds` or `frames`.

        Raises:
            UserError: it cannot be loaded, lacks weights, or its outputs are not the ones named.
        """
        low, high = output_range
        if not (low < high and math.isfinite(low) and math.isfinite(high)):
            raise UserError(
                f"output range: {low:g} {high:g} is none; give two numbers, the lower first"
            )
        local = Path(source).is_dir()
        try:
            config = transformers.AutoConfig.from_pretrained(source, local_files_only=local)
            kind = _model_class(config, modality)
            if kind is None:
                check_encodes(source, config, modality)
                kind = _dimensional_class(config)
            with no_load_report():
                model, info = kind.from_pretrained(
                    source, local_files_only=local, output_loading_info=True
                )
        except LOADING_ERRORS as error:
            raise UserError(
                f"{source}: no regression model of {modality} could be loaded from it "
                f"({first_line(error)}); give the folder of one, with its config.json and weights"
            ) from None
        missing = [name for name in info["missing_keys"] if "masked_spec_embed" not in name]
        if missing:
            raise UserError(
                f"{source}: {len(missing)} weights of the model are not in it (such as "
                f"{sorted(missing)[0]}), so it cannot score; give a fine-tuned regression model, "
                f"or fit one with `univa va fit-{modality}`"
            )
        names = _output_names(source, config, order)
        preprocessor = PREPROCESSORS[modality].load(
            source, config, **{name: value for name, value in settings.items() if value}
        )
        return cls(model.float().eval(), preprocessor, names, low=low, high=high)

    def forward(self, batch: EncoderInputs) -> Tensor:
        """Score a batch: [B, 2] (valence, arousal), in [-1, 1] where the outputs are in range."""
        logits = self._logits(batch)[:, self.columns]
        return 2 * (logits - self.low) / (self.high - self.low) - 1

    def _logits(self, batch: EncoderInputs) -> Tensor:
        if isinstance(self.preprocessor, VisionPreprocessor):
            logits = self.model(pixel_values=batch["pixel_values"]).logits
            spread, mask = self.preprocessor.spread(logits, batch)
            return spread.sum(1) / mask.sum(1, keepdim=True)  # absent frames are 0
        if self.preprocessor.modality == "audio":
            if isinstance(self.model, _Dimensional):
                return self.model.scores(batch, self.preprocessor)
            if getattr(cast(Any, self.model).config, "feat_extract_norm", "") == "group":
                lengths = batch["attention_mask"].sum(1).tolist()
                rows = zip(batch["input_values"], lengths, strict=True)
                return torch.cat([self.model(row[None, :n]).logits for row, n in rows])
        return self.model(**batch).logits


class _Dimensional:
    """What the classes that `_dimensional_class` makes have in common."""

    config: Any
    base_model: nn.Module
    classifier: nn.Module

    def scores(self, batch: EncoderInputs, preprocessor: Any) -> Tensor:
        hidden, mask = preprocessor.states(self.base_model, batch)  # [B, T, H], [B, T]
        weight = mask.unsqueeze(-1).to(hidden.dtype)
        return self.classifier((hidden * weight).sum(1) / weight.sum(1))


class _Head(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.out_proj(torch.tanh(self.dense(pooled)))


def _dimensional_class(config: Any) -> Any:
    """A class for the layout of the dimensional speech models, over any encoder of samples."""
    encoder: Any = transformers.AutoModel._model_mapping[type(config)]
    family = next(
        base
        for base in encoder.__mro__[1:]
        if issubclass(base, transformers.PreTrainedModel) and base.__name__ != encoder.__name__
    )

    def __init__(self: Any, config: Any) -> None:
        family.__init__(self, config)
        setattr(self, family.base_model_prefix, encoder(config))
        self.classifier = _Head(config)
        self.post_init()

    return type("DimensionalSpeechModel", (_Dimensional, family), {"__init__": __init__})


def _model_class(config: Any, modality: Modality) -> Any:
    """The class of `transformers` that reads the folder; None for the dimensional speech models.

    Raises:
        ValueError: it is a model of another task.
    """
    named = (getattr(config, "architectures", None) or ["nothing"])[0]
    stock = getattr(transformers, _STOCK[modality])
    if modality == "audio" and not hasattr(transformers, named):
        return None
    if type(config) not in stock._model_mapping:
        raise ValueError(f"{config.model_type} has no model with outputs per {modality}")
    return stock


def _output_names(source: str | Path, config: Any, order: Sequence[str] | None) -> list[str]:
    """Names of the outputs, lower case.

    Raises:
        UserError: their number differs, or valence or arousal is not among them.
    """
    named = [str(config.id2label[i]).lower() for i in range(config.num_labels)]
    names = named if order is None else [name.lower() for name in order]
    if len(names) != config.num_labels:
        raise UserError(
            f"{source}: the model has {config.num_labels} output(s), and --order names "
            f"{len(names)}; name each of them"
        )
    for name in DIMENSIONS:
        if names.count(name) != 1:
            raise UserError(
                f"{source}: {name} must be one of the model's {config.num_labels} output(s), "
                f"which are {', '.join(names)}; give their --order, such as arousal dominance "
                "valence"
            )
    return names
