"""Loss, parameter groups and learning rates of a fit."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from univa.va.agreement import concordance
from univa.va.fit_settings import FitSettings
from univa.va.regressor import VARegressor

__all__ = ["layer_places", "make_optimizer", "regression_loss", "warm_up_then_decay"]

_LAYER = re.compile(r"(?:^|\.)layers?\.(\d+)\.")
_BELOW = re.compile(r"embed|feature_(?:extractor|projection)|pre_?layrnorm|pos_conv")


def regression_loss(
    predictions: Tensor, targets: Tensor, scale: Tensor, concordance_weight: float
) -> Tensor:
    """Mean over dimensions of a mix of squared error and 1 - CCC.

    Args:
        predictions: [N, 2].
        targets: [N, 2].
        scale: [2], standard deviation of the training targets; squared errors are in its units,
            so that both terms are of order 1.
        concordance_weight: 0 for the squared error alone, 1 for 1 - CCC alone.

    Returns:
        Scalar.
    """
    squared = ((predictions - targets) / scale).square().mean()
    discord = (1 - concordance(predictions, targets)).mean()
    return (1 - concordance_weight) * squared + concordance_weight * discord


def layer_places(encoder: nn.Module) -> dict[str, int]:
    """How many layers are above each parameter: 0 for the last layer and what comes after it.

    Returns:
        parameter name -> place; what is below all layers (embeddings, convolutions) has as many
        as there are layers.
    """
    found = {name: _LAYER.search(name) for name, _ in encoder.named_parameters()}
    depth = max((int(match[1]) + 1 for match in found.values() if match), default=0)
    return {
        name: depth - 1 - int(match[1]) if match else depth if _BELOW.search(name) else 0
        for name, match in found.items()
    }


def make_optimizer(scorer: VARegressor, settings: FitSettings) -> torch.optim.AdamW:
    """AdamW over the head and, unless it is frozen, the encoder, with rates layer by layer.

    The convolutions that read samples stay as they were pre-trained, as is usual in fine-tuning
    wav2vec2 (Baevski et al., NeurIPS 2020).
    """
    scorer.encoder.requires_grad_(settings.encoder_learning_rate > 0)
    convolutions = getattr(scorer.encoder, "feature_extractor", None)
    if isinstance(convolutions, nn.Module):
        convolutions.requires_grad_(False)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    places = layer_places(scorer.encoder)
    rates = {
        f"encoder.{name}": settings.encoder_learning_rate * settings.layer_decay**place
        for name, place in places.items()
    }
    for name, parameter in scorer.named_parameters():
        if parameter.requires_grad:
            rate = rates.get(name, settings.head_learning_rate)
            decay = settings.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": rate, "weight_decay": decay}
            for (rate, decay), parameters in groups.items()
        ]
    )


def warm_up_then_decay(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate at a step counted from 0; never 0 at a step that is taken."""
    rise = round(warmup * steps)
    if step < rise:
        return (step + 1) / rise
    return max(0.0, (steps - step) / max(1, steps - rise))
