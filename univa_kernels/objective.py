"""The whole UniVA objective in one call forward and one backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from univa_kernels import _checks, backends
from univa_kernels.functional import PriorForm
from univa_kernels.reference import accumulate_dtype

__all__ = ["UniVALossOutput", "univa_loss"]

_MODALITIES = ("text", "audio", "vision")


class UniVALossOutput(NamedTuple):
    """The objective and its terms, each a 0-dim tensor.

    Attributes:
        total: (1 - alpha) (classification + prior) + alpha sum_m w_m contrastive[m] / 3.
        classification: 1000 x KL divergence, or binary cross-entropy.
        prior: the emotion-correlation prior; 0 without one.
        contrastive: modality -> its contrastive loss, unweighted.
    """

    total: Tensor
    classification: Tensor
    prior: Tensor
    contrastive: dict[str, Tensor]


def univa_loss(
    logits: Tensor,
    labels: Tensor,
    embeddings: Mapping[str, Tensor] | Tensor,
    coordinates: Mapping[str, Tensor] | Tensor,
    similarity: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.7,
    radius: float = 0.1,
    sigma: float | None = None,
    alpha: float = 0.45,
    modality_weights: Mapping[str, float] | None = None,
    classification: Literal["kl", "bce"] = "kl",
    prior: PriorForm | None = None,
    self_weight: float = 0.5,
    no_positives: Literal["skip", "zero"] = "skip",
    normalize: bool = False,
) -> UniVALossOutput:
    """The UniVA objective (Zheng et al., ACM MM 2024; docs/mathematics.md, section 3).

    L = (1 - alpha) (classification + eta) + alpha sum_m w_m L_m^CL / 3, where classification is
    1000 KL(softmax(labels) || softmax(logits)), averaged over utterances and labels, or binary
    cross-entropy on sigmoids. The prior sees log-softmax outputs ("norm") or the classifier's
    probabilities ("quadratic"). Embeddings are converted to the dtype of `logits`, or both to the
    wider of the two.

    Args:
        logits: [B, L] floating.
        labels: [B, L], 1 where the emotion is present, else 0 (intensities are accepted).
        embeddings: modality -> [B, D_m], or one tensor [3, B, D] for text, audio and vision.
        coordinates: modality -> [B, 2] (valence, arousal), or one tensor [3, B, 2]. A modality of
            `embeddings` without coordinates has no contrastive term.
        similarity: [L, L]; needed when `prior` is not None.
        temperature: of the contrastive terms; positive, or a one-element tensor that may learn.
        radius: of the contrastive terms.
        sigma: of gaussian positives, as in `va_supcon_loss`; None for the radius rule.
        alpha: weight of the contrastive part, in [0, 1].
        modality_weights: modality -> weight w_m, at least 0; 1 where not given. The authors use
            text 3, audio 1, vision 1 for MOSEI.
        classification: "kl" or "bce".
        prior: "norm", "quadratic", or None.
        self_weight: as in `va_supcon_loss`; 0.5 is the authors' two equal views.
        no_positives: leave anchors without positives out of a mean ("skip") or count them as 0.
        normalize: scale embeddings to unit norm in the contrastive terms.

    Returns:
        `UniVALossOutput`; float64 where `logits` or embeddings are, else float32.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: mismatched shapes, an unknown option, coordinates or a weight for a modality
            that has no embeddings, a prior without similarity.

    Example:
        >>> import torch, univa_kernels
        >>> terms = univa_kernels.univa_loss(
        ...     torch.randn(8, 6), torch.ones(8, 6), torch.randn(3, 8, 32), torch.rand(3, 8, 2)
        ... )
        >>> sorted(terms.contrastive)
        ['audio', 'text', 'vision']
    """
    _checks.embeddings_2d("logits", logits)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor [B, L], got {type(labels).__name__}")
    if labels.shape != logits.shape or labels.is_complex():
        raise ValueError(
            f"labels must have the shape of logits {list(logits.shape)} and be real, "
            f"got {labels.dtype} {list(labels.shape)}"
        )
    _checks.same_device("labels", labels, logits, "logits")
    alpha = _checks.in_range("alpha", alpha, 0, 1)
    radius = _checks.in_range("radius", radius, 0)
    sigma = 0.0 if sigma is None else _checks.in_range("sigma", sigma, 0, open_low=True)
    self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
    _checks.choice("classification", classification, ("kl", "bce"))
    _checks.choice("prior", prior, ("norm", "quadratic", None))
    _checks.choice("no_positives", no_positives, ("skip", "zero"))
    if prior is None:
        similarity = None
    elif similarity is None:
        raise ValueError(f"prior={prior!r} needs the similarity matrix [L, L]")
    else:
        _check_similarity(similarity, logits)

    rows = _by_modality("embeddings", embeddings)
    points = _by_modality("coordinates", coordinates)
    for name in (*points, *(modality_weights or {})):
        if name not in rows:
            raise ValueError(
                f"coordinates or modality_weights name modality {name!r}, which embeddings lack; "
                f"embeddings have {', '.join(rows) or 'none'}"
            )
    dtype = logits.dtype
    for name, value in rows.items():
        title = f"embeddings[{name!r}]"
        _checks.embeddings_2d(title, value)
        _checks.same_device(title, value, logits, "logits")
        if len(value) != len(logits):
            raise ValueError(
                f"{title} must have one row for each row of logits: {len(value)} against "
                f"{len(logits)}"
            )
        dtype = torch.promote_types(dtype, value.dtype)
    used = [name for name in rows if name in points]
    weights = modality_weights or {}
    total, classified, eta, *contrastive = backends.select(logits).objective(
        logits.to(dtype),
        labels,
        None if similarity is None else similarity.to(dtype),
        [rows[name].to(dtype) for name in used],
        [
            _checks.as_coordinates(
                f"coordinates[{name!r}]", points[name], rows[name], f"embeddings[{name!r}]"
            )
            for name in used
        ],
        [
            _checks.in_range(f"modality_weights[{name!r}]", weights.get(name, 1.0), 0)
            for name in used
        ],
        *_checks.learned_or_fixed(
            "temperature", temperature, accumulate_dtype(dtype), logits.device
        ),
        radius,
        sigma,
        alpha,
        self_weight,
        no_positives == "skip",
        normalize,
        classification,
        prior or "none",
    )
    return UniVALossOutput(total, classified, eta, dict(zip(used, contrastive, strict=True)))


def _by_modality(name: str, value: Mapping[str, Tensor] | Tensor) -> Mapping[str, Tensor]:
    """Read [3, B, _] as a mapping."""
    if not isinstance(value, Tensor):
        return value
    if value.dim() != 3 or len(value) != len(_MODALITIES):
        raise ValueError(
            f"{name} must be a mapping or have shape [3, B, _] (text, audio, vision), "
            f"got {list(value.shape)}"
        )
    return dict(zip(_MODALITIES, value.unbind(0), strict=True))


def _check_similarity(similarity: Tensor, logits: Tensor) -> None:
    _checks.embeddings_2d("similarity", similarity)
    labels = logits.shape[1]
    if similarity.shape != (labels, labels):
        raise ValueError(
            f"similarity must be [{labels}, {labels}] for logits {list(logits.shape)}, "
            f"got {list(similarity.shape)}"
        )
    _checks.same_device("similarity", similarity, logits, "logits")
