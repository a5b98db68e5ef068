"""The contrastive loss of the UniVA authors' repository, NUSTM/UniVA."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.compat import _inputs
from univa_kernels.functional import va_supcon_loss

__all__ = ["VA_aware_SupConLoss"]


class VA_aware_SupConLoss(nn.Module):
    """The contrastive loss of the UniVA authors' repository: change the import, nothing else.

    It takes V views of each sample and, in mode "one", the first view of each as anchors. In the
    authors' runs both views are one tensor, stacked. Given that as
    `hidden[:, None].expand(-1, 2, -1)`, the cost is that of a single view: then this is exactly
    the loss with `self_weight` 0.5, plus log 2 (`va_supcon_loss`). Stacked copies give the same
    number for twice the work, since that they are equal cannot be told without reading them.

    Differences from the original, both in its disfavour: it adds 1e-10 inside the logarithm and
    takes the row maximum over the self pair too, so where logits are large its value is off in
    digits that this one has right; and it loops in Python over pairs.

    Args:
        temperature: divides the inner products; positive.
        contrast_mode: "one" (first views are the anchors) or "all" (every view is).
        base_temperature: accepted and without effect, as in the original.

    Example:
        >>> import torch
        >>> from univa_kernels.compat import VA_aware_SupConLoss
        >>> hidden = torch.randn(8, 32)
        >>> loss = VA_aware_SupConLoss(temperature=0.7)
        >>> views = hidden[:, None].expand(-1, 2, -1)  # or torch.stack((hidden, hidden), 1)
        >>> loss(views, va_labels=torch.rand(8, 2), thres_dict=0.1).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: Literal["one", "all"] = "one",
        base_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
        _checks.choice("contrast_mode", contrast_mode, ("one", "all"))
        self.contrast_mode: Literal["one", "all"] = contrast_mode
        self.base_temperature = base_temperature

    def forward(
        self,
        features: Tensor,
        multi_label: Tensor | None = None,
        va_labels: Tensor | None = None,
        thres_dict: float | None = None,
        batch_belong_diaID: Sequence[object] | Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss over the anchors, 0-dim.

        Args:
            features: [B, V, ...] floating, V >= 1 views; trailing dimensions are flattened.
            multi_label: accepted and without effect, as in the original.
            va_labels: [B, 2] (valence, arousal).
            thres_dict: radius: samples strictly closer than this in VA are positives.
            batch_belong_diaID: the dialogue of each sample, B ids of any kind; samples of one
                dialogue are positives too.

        Raises:
            TypeError: wrong type or dtype.
            ValueError: wrong shape, or `va_labels` or `thres_dict` is missing.
        """
        features = _inputs.views(features)  # [B, V, D]
        if va_labels is None or thres_dict is None:
            raise ValueError("va_labels [B, 2] and thres_dict (the radius) must be given")
        groups = None
        if batch_belong_diaID is not None:
            groups = _group_numbers(batch_belong_diaID, features.device)
        # At radius 0 not even the other view is a positive.
        one_tensor = features.shape[1] == 2 and features.stride(1) == 0 and thres_dict > 0
        if self.contrast_mode == "one" and one_tensor:
            loss = va_supcon_loss(
                features[:, 0],
                va_labels,
                temperature=self.temperature,
                radius=thres_dict,
                groups=groups,
                self_weight=0.5,
            )
            return loss + math.log(2)
        return va_supcon_loss(
            features,
            va_labels,
            temperature=self.temperature,
            radius=thres_dict,
            groups=groups,
            anchor_views=self.contrast_mode,
        )


def _group_numbers(ids: Sequence[object] | Tensor, device: torch.device) -> Tensor:
    """Number ids of any kind: equal ids, equal numbers. [B] int64."""
    if isinstance(ids, Tensor):
        return ids.to(device)
    numbers: dict[object, int] = {}
    return torch.tensor([numbers.setdefault(name, len(numbers)) for name in ids], device=device)
