"""SupConLoss with the constructor and the call of the repository SupContrast."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.compat import _inputs
from univa_kernels.functional import va_supcon_loss
from univa_kernels.reference import accumulate_dtype

__all__ = ["SupConLoss"]


class SupConLoss(nn.Module):
    """Supervised contrastive loss of several views: change the import, nothing else.

    Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, Eq. 2, times
    temperature / base_temperature; without labels and mask that of SimCLR (Chen et al., ICML 2020,
    Eq. 1). Memory is linear in the number of samples. As in the original, features are not
    normalised here, and an anchor without positives counts as 0 in the mean.

    Differences from the original:

    - The row maximum is taken over the pairs that count, not over the anchor's product with itself
      too. Where that product is far above all others (long features, low temperature), the
      original takes the logarithm of 0 and returns inf or NaN; this one returns the number.
    - Labels are integers (of less than 2^53); floating ones are refused, not compared bit by bit.
    - A `mask` need not follow from classes, so it is served by plain PyTorch over all pairs, with
      memory quadratic in the number of views, as that of the mask itself is. If it does follow
      from classes, pass `labels`.
    - Half-precision features accumulate in float32, and the loss is float32.

    Args:
        temperature: divides the inner products; positive.
        contrast_mode: "all" (every view is an anchor) or "one" (first views are).
        base_temperature: the loss is multiplied by temperature / base_temperature; positive.

    Raises:
        TypeError: a temperature is not a number.
        ValueError: a temperature is not positive, or an unknown mode.

    Example:
        >>> import torch
        >>> from univa_kernels.compat.supcontrast import SupConLoss
        >>> features = torch.nn.functional.normalize(torch.randn(8, 2, 32), dim=2)
        >>> SupConLoss(temperature=0.07)(features, labels=torch.arange(8) % 3).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: Literal["all", "one"] = "all",
        base_temperature: float = 0.07,
    ) -> None:
        super().__init__()
        self.temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
        _checks.choice("contrast_mode", contrast_mode, ("all", "one"))
        self.contrast_mode: Literal["all", "one"] = contrast_mode
        self.base_temperature = _checks.in_range(
            "base_temperature", base_temperature, 0, open_low=True
        )

    def forward(
        self, features: Tensor, labels: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the mean loss over the anchors, 0-dim.

        Args:
            features: [B, V, ...] floating, V >= 1 views; trailing dimensions are flattened.
            labels: [B] or [B, 1] integers, the classes; every sample is its own by default.
            mask: [B, B]: weight at least 0 of sample j as a positive of sample i; need not be
                symmetric. Not together with `labels`.

        Raises:
            TypeError: wrong type or dtype.
            ValueError: wrong shape, or both `labels` and `mask`.
        """
        features = _inputs.views(features)  # [B, V, D]
        scale = self.temperature / self.base_temperature
        if mask is not None:
            if labels is not None:
                raise ValueError("labels and mask exclude each other: give one of them")
            return scale * self._over_all_pairs(features, mask)
        first = features[:, 0]
        if labels is None:
            labels = torch.arange(len(features), device=features.device)
        return scale * va_supcon_loss(
            features,
            _inputs.class_labels("labels", labels, first, "features"),
            temperature=self.temperature,
            radius=_inputs.CLASS_RADIUS,
            no_positives="zero",
            anchor_views=self.contrast_mode,
        )

    def _over_all_pairs(self, features: Tensor, mask: Tensor) -> Tensor:
        """The same loss, with positives k_ij by a matrix."""
        batch, views = features.shape[:2]
        if not isinstance(mask, Tensor):
            raise TypeError(f"mask must be a tensor [B, B], got {type(mask).__name__}")
        if mask.shape != (batch, batch):
            raise ValueError(f"mask must have shape [{batch}, {batch}], got {list(mask.shape)}")
        every = features.transpose(0, 1).flatten(0, 1)  # [V B, D], first views first
        every = every.to(accumulate_dtype(features.dtype))
        anchors = every if self.contrast_mode == "all" else every[:batch]
        with torch.autocast(every.device.type, enabled=False):
            logits = anchors @ every.T / self.temperature  # [A, V B]
        own = torch.ones_like(logits, dtype=torch.bool).triu().tril()
        positives = mask.to(logits).repeat(len(anchors) // max(1, batch), views)
        positives = positives.masked_fill(own, 0)
        count = positives.sum(1)
        some = count != 0
        # The log of an empty sum would put NaN into the gradient of a row that counts as 0.
        counted = logits.masked_fill(own, -math.inf).masked_fill(~some[:, None], 0)
        mean = (positives * logits).sum(1) / count.where(some, 1)
        losses = torch.where(some, counted.logsumexp(1) - mean, 0)
        return losses.sum() / max(1, len(losses))

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return (
            f"temperature={self.temperature}, contrast_mode={self.contrast_mode!r}, "
            f"base_temperature={self.base_temperature}"
        )
