"""Model and loss in one module."""

from __future__ import annotations

import math

import torch
from torch import nn

from univa.batch import Batch
from univa.config import TrainConfig
from univa.models import UniVA
from univa_kernels import UniVALoss, UniVALossOutput

__all__ = ["Objective"]


class Objective(nn.Module):
    """Model and loss in one: DistributedDataParallel has to see every use of a parameter.

    Args:
        config: the run.
        model: the model of that config.
    """

    def __init__(self, config: TrainConfig, model: UniVA) -> None:
        super().__init__()
        self.model = model
        self.autocast = config.precision == "bfloat16"
        # Two equal views are one with self weight 0.5, and this constant.
        self.two_views = math.log(2) if config.authors else 0.0
        self.loss = UniVALoss(
            temperature=config.loss.temperature,
            radius=config.loss.radius,
            alpha=config.loss.alpha,
            modality_weights=config.loss.modality_weights,
            classification=config.loss.classification,
            prior=config.loss.prior,
            self_weight=config.loss.self_weight,
            no_positives=config.loss.no_positives,
            normalize=config.loss.normalize,
            gather_distributed=config.loss.gather,
        )

    def forward(self, batch: Batch) -> UniVALossOutput:
        """The UniVA objective of a batch, in float32, and its terms."""
        with torch.autocast(batch.labels.device.type, torch.bfloat16, enabled=self.autocast):
            output = self.model(**batch.inputs)
        terms = self.loss(
            output.logits.float(),
            batch.labels,
            {name: value.float() for name, value in output.embeddings.items()},
            batch.coordinates,
            output.similarity,
        )
        return self._with_two_views(terms) if self.two_views else terms

    def _with_two_views(self, terms: UniVALossOutput) -> UniVALossOutput:
        weights = self.loss.modality_weights
        more = sum(weights[name] for name in terms.contrastive) * self.two_views / 3
        return terms._replace(
            total=terms.total + self.loss.alpha * more,
            contrastive={name: term + self.two_views for name, term in terms.contrastive.items()},
        )
