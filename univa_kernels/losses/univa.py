"""The whole UniVA objective."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.distributed import gather_rows, row_counts
from univa_kernels.functional import PriorForm
from univa_kernels.objective import UniVALossOutput, univa_loss

__all__ = ["UniVALoss"]


class UniVALoss(nn.Module):
    """Module form of `univa_kernels.univa_loss`, which describes the arguments and errors.

    With `learn_temperature` the temperature is a parameter (its logarithm, so that it stays
    positive), starting at `temperature`. With `gather_distributed` every rank of torch.distributed
    computes the objective of all ranks' rows: after DistributedDataParallel's averaging, loss and
    gradients are those of one process with the whole batch.

    Example:
        >>> import torch
        >>> from univa_kernels import UniVALoss
        >>> loss = UniVALoss(temperature=0.4, alpha=0.2)
        >>> terms = loss(
        ...     logits=torch.randn(8, 6),
        ...     labels=torch.randint(2, (8, 6)),
        ...     embeddings={"text": torch.randn(8, 32), "audio": torch.randn(8, 32)},
        ...     coordinates={"text": torch.rand(8, 2)},
        ... )
        >>> sorted(terms.contrastive)
        ['text']
    """

    def __init__(
        self,
        *,
        temperature: float = 0.7,
        radius: float = 0.1,
        sigma: float | None = None,
        alpha: float = 0.45,
        modality_weights: Mapping[str, float] | None = None,
        classification: Literal["kl", "bce"] = "kl",
        prior: PriorForm | None = None,
        self_weight: float = 0.5,
        no_positives: Literal["skip", "zero"] = "skip",
        normalize: bool = False,
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
        self.alpha = _checks.in_range("alpha", alpha, 0, 1)
        self.self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
        _checks.choice("classification", classification, ("kl", "bce"))
        _checks.choice("prior", prior, ("norm", "quadratic", None))
        _checks.choice("no_positives", no_positives, ("skip", "zero"))
        for name in modality_weights or {}:
            # A modality may be missing from a batch, so a misspelt one would go unnoticed later.
            _checks.choice("modality_weights' key", name, ("text", "audio", "vision"))
        self.modality_weights = {
            name: _checks.in_range(f"modality_weights[{name!r}]", weight, 0)
            for name, weight in (modality_weights or {}).items()
        }
        self.classification: Literal["kl", "bce"] = classification
        self.prior: PriorForm | None = prior
        self.no_positives: Literal["skip", "zero"] = no_positives
        self.normalize = normalize
        self.gather_distributed = gather_distributed

    @property
    def temperature(self) -> float | Tensor:
        """The number, or the 0-dim tensor that learns."""
        return self._temperature if self.log_temperature is None else self.log_temperature.exp()

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        embeddings: Mapping[str, Tensor] | Tensor,
        coordinates: Mapping[str, Tensor] | Tensor,
        similarity: Tensor | None = None,
    ) -> UniVALossOutput:
        """Return the objective and its terms for one batch."""
        if self.gather_distributed:
            logits, labels, embeddings, coordinates = _gather(
                logits, labels, embeddings, coordinates
            )
        present = (
            self.modality_weights
            if isinstance(embeddings, Tensor)
            else {k: w for k, w in self.modality_weights.items() if k in embeddings}
        )
        return univa_loss(
            logits,
            labels,
            embeddings,
            coordinates,
            similarity,
            temperature=self.temperature,
            radius=self.radius,
            sigma=self.sigma,
            alpha=self.alpha,
            modality_weights=present,
            classification=self.classification,
            prior=self.prior,
            self_weight=self.self_weight,
            no_positives=self.no_positives,
            normalize=self.normalize,
        )

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        rule = f"radius={self.radius}" if self.sigma is None else f"sigma={self.sigma}"
        return (
            f"temperature={self._temperature}, {rule}, alpha={self.alpha}, "
            f"modality_weights={self.modality_weights}, classification={self.classification!r}, "
            f"prior={self.prior!r}, self_weight={self.self_weight}, "
            f"no_positives={self.no_positives!r}, normalize={self.normalize}, "
            f"learn_temperature={self.log_temperature is not None}, "
            f"gather_distributed={self.gather_distributed}"
        )


def _gather(
    logits: Tensor,
    labels: Tensor,
    embeddings: Mapping[str, Tensor] | Tensor,
    coordinates: Mapping[str, Tensor] | Tensor,
) -> tuple[Tensor, Tensor, Mapping[str, Tensor] | Tensor, Mapping[str, Tensor] | Tensor]:
    """The rows of all ranks, of everything that the objective takes."""
    sizes = row_counts(logits)

    def every(value: Mapping[str, Tensor] | Tensor) -> Mapping[str, Tensor] | Tensor:
        if isinstance(value, Tensor):  # [3, B, _]
            return gather_rows(value.transpose(0, 1), sizes=sizes).transpose(0, 1)
        # In one order: ranks may have filled their dicts differently.
        return {name: gather_rows(value[name], sizes=sizes) for name in sorted(value)}

    return (
        gather_rows(logits, sizes=sizes),
        gather_rows(labels, sizes=sizes),
        every(embeddings),
        every(coordinates),
    )
