"""Supervised contrastive loss over valence-arousal (or any continuous label) coordinates."""

from __future__ import annotations

from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.functional import NoPositives, Reduction, va_supcon_loss

__all__ = ["VASupConLoss"]


class VASupConLoss(nn.Module):
    """Module form of `univa_kernels.va_supcon_loss`, which describes the arguments and errors.

    Args:
        temperature: divides the inner products; positive.
        radius: positives lie strictly closer than this; at least 0.
        self_weight: weight of a sample's pair with itself, in [0, 1].
        no_positives: "skip", "zero" or "error".
        reduction: "mean", "sum" or "none".
        normalize: scale embeddings to unit L2 norm first.

    Example:
        >>> import torch
        >>> from univa_kernels import VASupConLoss
        >>> loss = VASupConLoss(temperature=0.1, radius=0.5, normalize=True)
        >>> loss(torch.randn(8, 16), torch.rand(8, 2)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.7,
        radius: float = 0.1,
        *,
        self_weight: float = 0.0,
        no_positives: NoPositives = "skip",
        reduction: Reduction = "mean",
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
        self.radius = _checks.in_range("radius", radius, 0)
        self.self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
        _checks.choice("no_positives", no_positives, ("skip", "zero", "error"))
        _checks.choice("reduction", reduction, ("none", "mean", "sum"))
        self.no_positives: NoPositives = no_positives
        self.reduction: Reduction = reduction
        self.normalize = normalize

    def forward(
        self,
        embeddings: Tensor,
        coordinates: Tensor,
        *,
        contrast_embeddings: Tensor | None = None,
        contrast_coordinates: Tensor | None = None,
        self_offset: int | None = None,
        groups: Tensor | None = None,
        contrast_groups: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `embeddings` [N, D] at `coordinates` [N, p]."""
        return va_supcon_loss(
            embeddings,
            coordinates,
            temperature=self.temperature,
            radius=self.radius,
            contrast_embeddings=contrast_embeddings,
            contrast_coordinates=contrast_coordinates,
            self_offset=self_offset,
            groups=groups,
            contrast_groups=contrast_groups,
            self_weight=self.self_weight,
            no_positives=self.no_positives,
            reduction=self.reduction,
            normalize=self.normalize,
        )

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return (
            f"temperature={self.temperature}, radius={self.radius}, "
            f"self_weight={self.self_weight}, no_positives={self.no_positives!r}, "
            f"reduction={self.reduction!r}, normalize={self.normalize}"
        )
