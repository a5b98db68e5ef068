"""SupConLoss with the constructor and the call of the package pytorch-metric-learning."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels.compat import _inputs
from univa_kernels.functional import NoPositives, Reduction, va_supcon_loss

__all__ = ["SupConLoss"]


class SupConLoss(nn.Module):
    """Supervised contrastive loss over classes: change the import, nothing else.

    Khosla et al., *Supervised Contrastive Learning*, NeurIPS 2020, Eq. 2, of embeddings scaled to
    unit L2 norm, averaged over the anchors that have a positive. Memory is linear in the number of
    samples. Values and gradients are those of pytorch-metric-learning 2.9 but for these cases:

    - A row whose loss is exactly 0 stays in the mean. The original's AvgNonZeroReducer takes it for
      a row without positives and drops it.
    - A row whose loss is NaN stays in the mean, which is NaN. The original's reducer drops it too,
      so that against a reference set the mean hides an anchor that has diverged.
    - A batch of a single class, or a reference set without negatives, has a loss: positives repel
      each other in the denominator, and that is part of Eq. 2. The original returns 0 with no
      gradient if the batch has no negative pair at all, and also if it has no more than one
      positive and one negative pair.
    - Half-precision embeddings accumulate in float32, and the loss is float32.
    - Pairs cannot be chosen: `indices_tuple` (a miner's output) is refused. To leave pairs out, use
      `univa_kernels.va_supcon_loss` with `groups` and group_pairs="exclude".
    - Labels are integers (of less than 2^53); floating ones are refused.
    - `ref_emb` needs `ref_labels`; the original then reads the labels of the batch.

    As in the original, a reference set holds no copy of the batch, so that nothing is left out of
    it, unless `ref_labels` is the very tensor given as `labels`: then row i of `ref_emb` is taken
    for anchor i's own copy and left out.

    Args:
        temperature: divides the inner products; positive.
        distance: None, or an object of type CosineSimilarity or DotProductSimilarity of the
            original, of which `normalize_embeddings` is used.
        reducer: None or AvgNonZeroReducer (mean over the anchors with positives), MeanReducer (the
            others count as 0) or SumReducer: an object of that type.
        embedding_regularizer: None; add a regularizer to the loss instead.
        embedding_reg_weight: accepted, and without effect as there is no regularizer.
        collect_stats: None or False.

    Raises:
        TypeError: a temperature that is not a number, an unknown keyword.
        ValueError: a temperature that is not positive, or an option that is not served.

    Example:
        >>> import torch
        >>> from univa_kernels.compat.metric_learning import SupConLoss
        >>> SupConLoss(temperature=0.1)(torch.randn(8, 16), torch.arange(8) % 3).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 0.1,
        *,
        distance: Any = None,
        reducer: Any = None,
        embedding_regularizer: Any = None,
        embedding_reg_weight: float = 1,
        collect_stats: bool | None = None,
    ) -> None:
        super().__init__()
        self.temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
        self.normalize = _normalizes(distance)
        self.reduction: Reduction
        self.no_positives: NoPositives
        self.reduction, self.no_positives = _reduction(reducer)
        if embedding_regularizer is not None:
            raise ValueError("embedding_regularizer is not served: add its value to the loss")
        if collect_stats:
            raise ValueError("collect_stats is not served: the loss keeps no statistics")

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        indices_tuple: None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Return the loss, 0-dim.

        Args:
            embeddings: [N, D] floating; the anchors.
            labels: [N] integers.
            indices_tuple: None.
            ref_emb: [M, D] to contrast with; the embeddings themselves by default.
            ref_labels: [M] integers, given exactly when `ref_emb` is.

        Raises:
            TypeError: wrong type or dtype.
            ValueError: wrong shape, `indices_tuple`, or one of `ref_emb` and `ref_labels` alone.
        """
        if indices_tuple is not None:
            raise ValueError(
                "indices_tuple is not served: all pairs count; leave pairs out by groups and "
                'group_pairs="exclude" of univa_kernels.va_supcon_loss'
            )
        if (ref_emb is None) != (ref_labels is None):
            raise ValueError("ref_emb and ref_labels go together: give both or neither")
        _checks.embeddings_2d("embeddings", embeddings)
        ref_coordinates = None
        if ref_emb is not None and ref_labels is not None:
            _checks.embeddings_2d("ref_emb", ref_emb)
            ref_coordinates = _inputs.class_labels("ref_labels", ref_labels, ref_emb, "ref_emb")
        return va_supcon_loss(
            embeddings,
            _inputs.class_labels("labels", labels, embeddings, "embeddings"),
            temperature=self.temperature,
            radius=_inputs.CLASS_RADIUS,
            contrast_embeddings=ref_emb,
            contrast_coordinates=ref_coordinates,
            self_offset=0 if ref_emb is None or ref_labels is labels else None,
            no_positives=self.no_positives,
            reduction=self.reduction,
            normalize=self.normalize,
        )

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return (
            f"temperature={self.temperature}, normalize={self.normalize}, "
            f"reduction={self.reduction!r}, no_positives={self.no_positives!r}"
        )


def _normalizes(distance: Any) -> bool:
    """Whether a distance of the original scales embeddings to unit norm; it must be a product."""
    if distance is None:
        return True
    name = type(distance).__name__
    if name not in ("CosineSimilarity", "DotProductSimilarity") or (distance.p, distance.power) != (
        2,
        1,
    ):
        raise ValueError(
            "distance must be None, CosineSimilarity or DotProductSimilarity with p=2 and power=1, "
            f"got {name}"
        )
    return bool(distance.normalize_embeddings)


def _reduction(reducer: Any) -> tuple[Reduction, NoPositives]:
    """What the rows of a reducer of the original come to."""
    if reducer is None:
        return "mean", "skip"
    name = type(reducer).__name__
    if name == "AvgNonZeroReducer":
        return "mean", "skip"
    if name == "MeanReducer":
        return "mean", "zero"
    if name == "SumReducer":
        return "sum", "skip"
    raise ValueError(
        f"reducer must be None, AvgNonZeroReducer, MeanReducer or SumReducer, got {name}"
    )
