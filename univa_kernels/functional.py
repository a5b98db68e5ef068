"""Functional forms of the losses: argument checks, choice of backend, reduction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from univa_kernels import _checks, backends

__all__ = [
    "UniVALossOutput",
    "contrastive_terms",
    "emotion_correlation_prior",
    "univa_loss",
    "va_supcon_loss",
]

NoPositives = Literal["skip", "zero", "error"]
Reduction = Literal["none", "mean", "sum"]
PriorForm = Literal["quadratic", "norm"]


def contrastive_terms(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    temperature: float = 0.7,
    radius: float = 0.1,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    self_weight: float = 0.0,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss of each anchor, and how many positives it has.

    Arguments and errors are those of `va_supcon_loss`.

    Returns:
        losses [N] (0 where there is no positive) and the positives' total weight [N], both float64
        for float64 embeddings and float32 otherwise. Only the losses are differentiable.
    """
    temperature = _checks.in_range("temperature", temperature, 0, open_low=True)
    radius = _checks.in_range("radius", radius, 0)
    self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
    _checks.embeddings_2d("embeddings", embeddings)
    coordinates = _checks.as_coordinates("coordinates", coordinates, embeddings, "embeddings")
    groups = _checks.groups_1d("groups", groups, embeddings, "embeddings")
    if contrast_embeddings is None:
        if contrast_coordinates is not None or contrast_groups is not None:
            raise ValueError("contrast_coordinates and contrast_groups need contrast_embeddings")
        if self_offset not in (None, 0):
            raise ValueError("self_offset needs contrast_embeddings: without, it is 0")
        self_offset = 0
    else:
        if contrast_coordinates is None:
            raise ValueError("contrast_embeddings need contrast_coordinates")
        if self_offset is not None and (
            isinstance(self_offset, bool) or not isinstance(self_offset, int)
        ):
            raise TypeError(f"self_offset must be an int or None, got {self_offset!r}")
        _checks.embeddings_2d("contrast_embeddings", contrast_embeddings)
        _checks.same_device("contrast_embeddings", contrast_embeddings, embeddings, "embeddings")
        if contrast_embeddings.shape[1] != embeddings.shape[1]:
            raise ValueError(
                f"contrast_embeddings must have as many columns as embeddings: "
                f"{contrast_embeddings.shape[1]} against {embeddings.shape[1]}"
            )
        if contrast_embeddings.dtype != embeddings.dtype:
            raise TypeError(
                f"contrast_embeddings are {contrast_embeddings.dtype} but embeddings are "
                f"{embeddings.dtype}; convert one of them"
            )
        contrast_coordinates = _checks.as_coordinates(
            "contrast_coordinates", contrast_coordinates, contrast_embeddings, "contrast_embeddings"
        )
        if contrast_coordinates.shape[1] != coordinates.shape[1]:
            raise ValueError(
                f"contrast_coordinates must have as many columns as coordinates: "
                f"{contrast_coordinates.shape[1]} against {coordinates.shape[1]}"
            )
        dtype = torch.promote_types(coordinates.dtype, contrast_coordinates.dtype)
        coordinates, contrast_coordinates = coordinates.to(dtype), contrast_coordinates.to(dtype)
        contrast_groups = _checks.groups_1d(
            "contrast_groups", contrast_groups, contrast_embeddings, "contrast_embeddings"
        )
        if (groups is None) != (contrast_groups is None):
            raise ValueError("groups and contrast_groups go together: give both or neither")
    if normalize:
        embeddings = F.normalize(embeddings, dim=1)
        if contrast_embeddings is not None:
            contrast_embeddings = F.normalize(contrast_embeddings, dim=1)
    losses, stats = backends.select(embeddings).contrastive(
        embeddings,
        contrast_embeddings,
        coordinates,
        contrast_coordinates,
        groups,
        contrast_groups,
        temperature,
        radius,
        self_weight,
        self_offset,
    )
    return losses, stats[1]


def va_supcon_loss(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    temperature: float = 0.7,
    radius: float = 0.1,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    self_weight: float = 0.0,
    no_positives: NoPositives = "skip",
    reduction: Reduction = "mean",
    normalize: bool = False,
) -> Tensor:
    """Supervised contrastive loss whose positives are close in a continuous label space.

    For UniVA the space is (valence, arousal): samples closer than `radius` attract each other
    (Zheng et al., ACM MM 2024, the equation of L_m^CL; Khosla et al., NeurIPS 2020, Eq. 2, for
    the form). Memory is linear in the number of samples.

    Args:
        embeddings: anchors, [N, D] float32, float64, bfloat16 or float16.
        coordinates: their place in the label space, [N, p]; [N] stands for p = 1. Class labels
            are p = 1 with radius 0.5.
        temperature: divides the inner products; positive.
        radius: positives lie strictly closer than this (Euclidean); at least 0.
        contrast_embeddings: [M, D] to contrast with, of the same dtype; the anchors themselves
            by default.
        contrast_coordinates: [M, p], given exactly when `contrast_embeddings` is.
        self_offset: anchor i's own copy is row i + self_offset of the contrast set; None when it
            holds no copy of the anchors (a memory bank). 0 when contrasting with the anchors.
        groups: [N] integers; samples of one group (a dialogue) are positives as well.
        contrast_groups: [M] integers, given exactly when `groups` and `contrast_embeddings` are.
        self_weight: weight of the pair of a sample with itself, in [0, 1]. 0 leaves it out; 0.5
            gives, up to the constant log 2, the loss of two equal views as the authors' code has
            it.
        no_positives: an anchor without positives is left out of the mean ("skip"), counts as 0
            ("zero"), or raises ("error", which synchronises with the device). If no anchor has
            any, "skip" gives 0.
        reduction: "mean", "sum", or "none" for [N] losses (0 where there is no positive).
        normalize: scale every embedding to unit L2 norm first.

    Returns:
        0-dim tensor, or [N] with reduction "none": float64 for float64 embeddings, else float32.

    Raises:
        TypeError: an argument has the wrong type or dtype.
        ValueError: a shape, a device or a number is out of place, or an anchor has no positive
            under "error".

    Example:
        >>> import torch, univa_kernels
        >>> embeddings = torch.randn(8, 16, requires_grad=True)
        >>> valence_arousal = torch.rand(8, 2)
        >>> univa_kernels.va_supcon_loss(embeddings, valence_arousal, radius=0.5).backward()
    """
    _checks.choice("no_positives", no_positives, ("skip", "zero", "error"))
    _checks.choice("reduction", reduction, ("none", "mean", "sum"))
    losses, count = contrastive_terms(
        embeddings,
        coordinates,
        temperature=temperature,
        radius=radius,
        contrast_embeddings=contrast_embeddings,
        contrast_coordinates=contrast_coordinates,
        self_offset=self_offset,
        groups=groups,
        contrast_groups=contrast_groups,
        self_weight=self_weight,
        normalize=normalize,
    )
    some = count > 0
    if no_positives == "error" and not bool(some.all()):
        row = int((~some).nonzero()[0])
        raise ValueError(
            f"anchor {row} has no positive within radius {radius}; "
            'widen the radius or pass no_positives="skip"'
        )
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if no_positives == "skip":
        return losses.sum() / some.sum().clamp(min=1)
    return losses.sum() / max(1, len(losses))


def emotion_correlation_prior(
    predictions: Tensor, similarity: Tensor, *, form: PriorForm = "quadratic"
) -> Tensor:
    """Emotion-correlation prior: similar emotions should get similar predictions.

    "quadratic" is the slides' eta = (1/N) sum_i sum_jl M_jl (y_ij - y_il)^2 (Zheng et al., ACM MM
    2024, Module 3). "norm" is what the authors' code computes,
    (1/N) sum_jl M_jl |y_.j - y_.l|_2 with the norm over the batch, on log-softmax outputs.

    Args:
        predictions: y, [N, L] floating; probabilities or log-probabilities.
        similarity: M, [L, L], usually in [-1, 1]; may require a gradient.
        form: "quadratic" or "norm".

    Returns:
        0-dim tensor in the dtype of `predictions`; 0 when N = 0.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: shapes or devices that do not match, an unknown form.

    Example:
        >>> import torch, univa_kernels
        >>> float(univa_kernels.emotion_correlation_prior(torch.eye(2), torch.ones(2, 2)))
        2.0
    """
    _checks.choice("form", form, ("quadratic", "norm"))
    _checks.embeddings_2d("predictions", predictions)
    _checks.embeddings_2d("similarity", similarity)
    labels = predictions.shape[1]
    if similarity.shape != (labels, labels):
        raise ValueError(
            f"similarity must be [{labels}, {labels}] for predictions {list(predictions.shape)}, "
            f"got {list(similarity.shape)}"
        )
    _checks.same_device("similarity", similarity, predictions, "predictions")
    similarity = similarity.to(predictions.dtype)
    return backends.select(predictions).correlation_prior(predictions, similarity, form)


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
    embeddings: Mapping[str, Tensor],
    coordinates: Mapping[str, Tensor],
    similarity: Tensor | None = None,
    *,
    temperature: float = 0.7,
    radius: float = 0.1,
    alpha: float = 0.45,
    modality_weights: Mapping[str, float] | None = None,
    classification: Literal["kl", "bce"] = "kl",
    prior: PriorForm | None = None,
    self_weight: float = 0.5,
    no_positives: NoPositives = "skip",
    normalize: bool = False,
) -> UniVALossOutput:
    """The UniVA objective (Zheng et al., ACM MM 2024; docs/mathematics.md).

    L = (1 - alpha) (classification + eta) + alpha sum_m w_m L_m^CL / 3, where classification is
    1000 KL(softmax(labels) || softmax(logits)), averaged over utterances and labels, or binary
    cross-entropy on sigmoids. The prior sees log-softmax outputs ("norm") or the classifier's
    probabilities ("quadratic").

    Args:
        logits: [B, L] floating.
        labels: [B, L], 1 where the emotion is present, else 0 (intensities are accepted).
        embeddings: modality -> [B, D_m].
        coordinates: modality -> [B, 2] (valence, arousal). A modality of `embeddings` without
            coordinates has no contrastive term.
        similarity: [L, L]; needed when `prior` is not None.
        temperature: of the contrastive terms; positive.
        radius: of the contrastive terms.
        alpha: weight of the contrastive part, in [0, 1].
        modality_weights: modality -> weight w_m, at least 0; 1 where not given. The authors use
            text 3, audio 1, vision 1 for MOSEI.
        classification: "kl" or "bce".
        prior: "norm", "quadratic", or None.
        self_weight: as in `va_supcon_loss`; 0.5 is the authors' two equal views.
        no_positives: as in `va_supcon_loss`.
        normalize: scale embeddings to unit norm in the contrastive terms.

    Returns:
        `UniVALossOutput`.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: mismatched shapes, an unknown option, coordinates or a weight for a modality
            that has no embeddings, a prior without similarity.
    """
    alpha = _checks.in_range("alpha", alpha, 0, 1)
    _checks.choice("classification", classification, ("kl", "bce"))
    _checks.choice("prior", prior, ("norm", "quadratic", None))
    _checks.embeddings_2d("logits", logits)
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a tensor [B, L], got {type(labels).__name__}")
    if labels.shape != logits.shape:
        raise ValueError(
            f"labels must have the shape of logits {list(logits.shape)}, got {list(labels.shape)}"
        )
    _checks.same_device("labels", labels, logits, "logits")
    for name in (*coordinates, *(modality_weights or {})):
        if name not in embeddings:
            raise ValueError(
                f"coordinates or modality_weights name modality {name!r}, which embeddings lack; "
                f"embeddings have {', '.join(embeddings) or 'none'}"
            )
    for name, value in embeddings.items():
        _checks.embeddings_2d(f"embeddings[{name!r}]", value)
        if len(value) != len(logits):
            raise ValueError(
                f"embeddings[{name!r}] must have one row for each row of logits: "
                f"{len(value)} against {len(logits)}"
            )

    targets = labels.to(logits.dtype)
    if classification == "kl":
        log_probabilities = F.log_softmax(logits, dim=1)
        divergence = F.kl_div(log_probabilities, targets.softmax(1), reduction="sum")
        # The authors average over utterances and labels.
        classified = 1000 * divergence / max(1, logits.numel())
    else:
        classified = F.binary_cross_entropy_with_logits(logits, targets)

    eta = logits.new_zeros(())
    if prior is not None:
        if similarity is None:
            raise ValueError(f"prior={prior!r} needs the similarity matrix [L, L]")
        if prior == "norm":
            predictions = F.log_softmax(logits, dim=1)
        else:
            predictions = logits.softmax(1) if classification == "kl" else logits.sigmoid()
        eta = emotion_correlation_prior(predictions, similarity, form=prior)

    weights = modality_weights or {}
    terms: dict[str, Tensor] = {}
    weighted = logits.new_zeros(())
    for name, value in embeddings.items():
        if name not in coordinates:
            continue
        terms[name] = va_supcon_loss(
            value,
            coordinates[name],
            temperature=temperature,
            radius=radius,
            self_weight=self_weight,
            no_positives=no_positives,
            normalize=normalize,
        )
        weight = _checks.in_range(f"modality_weights[{name!r}]", weights.get(name, 1.0), 0)
        # The paper's three modalities share the weight, also where one has no term.
        weighted = weighted + weight / 3 * terms[name]
    total = (1 - alpha) * (classified + eta) + alpha * weighted
    return UniVALossOutput(total, classified, eta, terms)
