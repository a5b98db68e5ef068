"""Supervised contrastive loss over valence-arousal (or any continuous label) coordinates."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.distributed import va_supcon_loss_distributed
from univa_kernels.functional import (
    AnchorViews,
    GroupPairs,
    NoPositives,
    Reduction,
    va_supcon_loss,
)

__all__ = ["VASupConLoss"]


class VASupConLoss(nn.Module):
    """Module form of `univa_kernels.va_supcon_loss`, which describes the arguments and errors.

    Args:
        temperature: divides the inner products; positive.
        radius: positives lie strictly closer than this; at least 0.
        sigma: width of gaussian positives, instead of the radius rule; None or positive.
        self_weight: weight of a sample's pair with itself, in [0, 1].
        group_pairs: "positive" or "exclude".
        no_positives: "skip", "zero" or "error".
        reduction: "mean", "sum" or "none".
        normalize: scale embeddings to unit L2 norm first.
        anchor_views: "all" or "one", with embeddings [N, V, D].
        learn_temperature: make the temperature a parameter (its logarithm, so that it stays
            positive), starting at `temperature`.
        gather_distributed: take the rows of all ranks of torch.distributed together
            (`univa_kernels.distributed`). After DistributedDataParallel's averaging, loss and
            gradients are those of one process with the whole batch.

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
        sigma: float | None = None,
        self_weight: float = 0.0,
        group_pairs: GroupPairs = "positive",
        no_positives: NoPositives = "skip",
        reduction: Reduction = "mean",
        normalize: bool = False,
        anchor_views: AnchorViews = "all",
        learn_temperature: bool = False,
        gather_distributed: bool = False,
    ) -> None:
        super().__init__()
        temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
        self.log_temperature = (
            nn.Parameter(torch.tensor(math.log(temperature))) if learn_temperature else None
        )
        self._temperature = temperature
        self.radius = _checks.in_range("radius", radius, 0)
        self.sigma = None if sigma is None else _checks.in_range("sigma", sigma, 0, open_low=True)
        self.self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
        _checks.choice("group_pairs", group_pairs, ("positive", "exclude"))
        _checks.choice("no_positives", no_positives, ("skip", "zero", "error"))
        _checks.choice("reduction", reduction, ("none", "mean", "sum"))
        _checks.choice("anchor_views", anchor_views, ("all", "one"))
        self.group_pairs: GroupPairs = group_pairs
        self.no_positives: NoPositives = no_positives
        self.reduction: Reduction = reduction
        self.normalize = normalize
        self.anchor_views: AnchorViews = anchor_views
        self.gather_distributed = gather_distributed

    @classmethod
    def for_classes(cls, temperature: float = 0.1, **options: Any) -> VASupConLoss:
        """The loss over class labels: `coordinates` are integers [N], equal ones are positives.

        Khosla et al., NeurIPS 2020, Eq. 2. `options` are those of the constructor but `radius`.

        Example:
            >>> import torch
            >>> from univa_kernels import VASupConLoss
            >>> loss = VASupConLoss.for_classes(normalize=True)
            >>> float(loss(torch.eye(4), torch.tensor([0, 0, 1, 1]))) > 0
            True
        """
        return cls(temperature, 0.5, **options)

    @classmethod
    def for_multilabel(
        cls, temperature: float = 0.1, *, max_hamming: int = 0, **options: Any
    ) -> VASupConLoss:
        """The loss over label sets: `coordinates` are bits [N, L].

        Samples whose bits differ in at most `max_hamming` places are positives. `options` are
        those of the constructor but `radius`.

        Raises:
            ValueError: `max_hamming` is not a whole number of at least 0.

        Example:
            >>> import torch
            >>> from univa_kernels import VASupConLoss
            >>> loss = VASupConLoss.for_multilabel(max_hamming=1, normalize=True)
            >>> loss(torch.randn(8, 16), torch.randint(0, 2, (8, 6))).shape
            torch.Size([])
        """
        if isinstance(max_hamming, bool) or not isinstance(max_hamming, int) or max_hamming < 0:
            raise ValueError(f"max_hamming must be a whole number >= 0, got {max_hamming!r}")
        # The squared distance of bit vectors is their Hamming distance.
        return cls(temperature, math.sqrt(max_hamming + 0.5), **options)

    @property
    def temperature(self) -> float | Tensor:
        """The number, or the 0-dim tensor that learns."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(
        self,
        embeddings: Tensor,
        coordinates: Tensor,
        *,
        contrast_embeddings: Tensor | None = None,
        contrast_coordinates: Tensor | None = None,
        self_offset: int | None = None,
        tie_self: bool = False,
        groups: Tensor | None = None,
        contrast_groups: Tensor | None = None,
        sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the loss of `embeddings` [N, D] or [N, V, D] at `coordinates` [N, p]."""
        loss = va_supcon_loss_distributed if self.gather_distributed else va_supcon_loss
        return loss(
            embeddings,
            coordinates,
            temperature=self.temperature,
            radius=self.radius,
            sigma=self.sigma,
            contrast_embeddings=contrast_embeddings,
            contrast_coordinates=contrast_coordinates,
            self_offset=self_offset,
            tie_self=tie_self,
            groups=groups,
            contrast_groups=contrast_groups,
            group_pairs=self.group_pairs,
            self_weight=self.self_weight,
            sample_weights=sample_weights,
            no_positives=self.no_positives,
            reduction=self.reduction,
            normalize=self.normalize,
            anchor_views=self.anchor_views,
        )

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        rule = f"radius={self.radius}" if self.sigma is None else f"sigma={self.sigma}"
        return (
            f"temperature={self._temperature}, {rule}, self_weight={self.self_weight}, "
            f"group_pairs={self.group_pairs!r}, no_positives={self.no_positives!r}, "
            f"reduction={self.reduction!r}, normalize={self.normalize}, "
            f"anchor_views={self.anchor_views!r}, "
            f"learn_temperature={self.log_temperature is not None}, "
            f"gather_distributed={self.gather_distributed}"
        )
