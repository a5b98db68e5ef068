"""Functional forms of loss and prior: argument checks, choice of backend, reduction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from univa_kernels import _checks, backends
from univa_kernels.reference import accumulate_dtype

__all__ = [
    "check_contrast",
    "check_tie",
    "contrastive_terms",
    "emotion_correlation_prior",
    "va_supcon_loss",
]

NoPositives = Literal["skip", "zero", "error"]
Reduction = Literal["none", "mean", "sum"]
PriorForm = Literal["quadratic", "norm"]
GroupPairs = Literal["positive", "exclude"]
AnchorViews = Literal["all", "one"]


def contrastive_terms(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    temperature: float | Tensor = 0.7,
    radius: float = 0.1,
    sigma: float | None = None,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    tie_self: bool = False,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    group_pairs: GroupPairs = "positive",
    self_weight: float = 0.0,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    """Loss of each anchor, and the weight of its positives.

    Arguments and errors are those of `va_supcon_loss`, for embeddings [N, D].

    Returns:
        losses [N] (0 where there is no positive) and the positives' total weight [N], both float64
        for float64 embeddings and float32 otherwise. Only the losses are differentiable.

    Example:
        >>> import torch, univa_kernels
        >>> losses, count = univa_kernels.contrastive_terms(torch.eye(3), torch.tensor([0, 0, 1]))
        >>> count.tolist()
        [1.0, 1.0, 0.0]
    """
    _checks.embeddings_2d("embeddings", embeddings)
    learned, fixed = _checks.learned_or_fixed(
        "temperature", temperature, accumulate_dtype(embeddings.dtype), embeddings.device
    )
    radius = _checks.in_range("radius", radius, 0)
    sigma = 0.0 if sigma is None else _checks.in_range("sigma", sigma, 0, open_low=True)
    self_weight = _checks.in_range("self_weight", self_weight, 0, 1)
    _checks.choice("group_pairs", group_pairs, ("positive", "exclude"))
    coordinates = _checks.as_coordinates("coordinates", coordinates, embeddings, "embeddings")
    groups = _checks.groups_1d("groups", groups, embeddings, "embeddings")
    if contrast_embeddings is None:
        if contrast_coordinates is not None or contrast_groups is not None:
            raise ValueError("contrast_coordinates and contrast_groups need contrast_embeddings")
        if self_offset not in (None, 0):
            raise ValueError("self_offset needs contrast_embeddings: without, it is 0")
        if tie_self:
            raise ValueError("tie_self needs contrast_embeddings: without, the anchors are these")
        self_offset = 0
    else:
        if contrast_coordinates is None:
            raise ValueError("contrast_embeddings need contrast_coordinates")
        if self_offset is not None and (
            isinstance(self_offset, bool) or not isinstance(self_offset, int)
        ):
            raise TypeError(f"self_offset must be an int or None, got {self_offset!r}")
        coordinates, contrast_coordinates, contrast_groups = check_contrast(
            embeddings,
            coordinates,
            groups,
            contrast_embeddings,
            contrast_coordinates,
            contrast_groups,
        )
        if tie_self:
            check_tie(embeddings, contrast_embeddings, self_offset)
    backend = backends.select(embeddings)
    losses, stats = (backend.tied_contrastive if tie_self else backend.contrastive)(
        embeddings,
        contrast_embeddings,
        coordinates,
        contrast_coordinates,
        groups,
        contrast_groups,
        learned,
        fixed,
        radius,
        sigma,
        self_weight,
        self_offset,
        group_pairs == "exclude",
        normalize,
    )
    return losses, stats[1]


def check_tie(embeddings: Tensor, contrast_embeddings: Tensor, self_offset: int | None) -> None:
    """Require own copies of all anchors in a contrast set without gradient.

    Raises:
        ValueError: some lie outside, or the contrast set requires a gradient.
    """
    last = len(contrast_embeddings) - len(embeddings)
    if self_offset is None or not 0 <= self_offset <= last:
        raise ValueError(
            f"tie_self needs self_offset from 0 to {last}, so that the {len(embeddings)} own "
            f"copies lie within the {len(contrast_embeddings)} rows of contrast_embeddings, got "
            f"{self_offset}"
        )
    if contrast_embeddings.requires_grad:
        raise ValueError(
            "tie_self takes contrast_embeddings without gradient: detach them, or leave it out"
        )


def check_contrast(
    embeddings: Tensor,
    coordinates: Tensor,
    groups: Tensor | None,
    contrast_embeddings: Tensor,
    contrast_coordinates: Tensor,
    contrast_groups: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check a contrast set against the anchors; return both coordinates in one dtype, groups.

    Raises:
        TypeError: wrong type, or another dtype than the anchors'.
        ValueError: a shape or a device does not fit.
    """
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
    contrast_groups = _checks.groups_1d(
        "contrast_groups", contrast_groups, contrast_embeddings, "contrast_embeddings"
    )
    if (groups is None) != (contrast_groups is None):
        raise ValueError("groups and contrast_groups go together: give both or neither")
    return coordinates.to(dtype), contrast_coordinates.to(dtype), contrast_groups


def va_supcon_loss(
    embeddings: Tensor,
    coordinates: Tensor,
    *,
    temperature: float | Tensor = 0.7,
    radius: float = 0.1,
    sigma: float | None = None,
    contrast_embeddings: Tensor | None = None,
    contrast_coordinates: Tensor | None = None,
    self_offset: int | None = None,
    tie_self: bool = False,
    groups: Tensor | None = None,
    contrast_groups: Tensor | None = None,
    group_pairs: GroupPairs = "positive",
    self_weight: float = 0.0,
    sample_weights: Tensor | None = None,
    no_positives: NoPositives = "skip",
    reduction: Reduction = "mean",
    normalize: bool = False,
    anchor_views: AnchorViews = "all",
) -> Tensor:
    """Supervised contrastive loss whose positives are close in a continuous label space.

    For UniVA the space is (valence, arousal): samples closer than `radius` attract each other
    (Zheng et al., ACM MM 2024, the equation of L_m^CL; Khosla et al., NeurIPS 2020, Eq. 2, for
    the form). Memory is linear in the number of samples.

    Args:
        embeddings: anchors, [N, D] float32, float64, bfloat16 or float16; or [N, V, D], V views of
            each sample, which share its coordinates and group.
        coordinates: their place in the label space, [N, p]; [N] stands for p = 1. Class labels
            are p = 1 with radius 0.5, bit vectors with at most t differing bits p = L with radius
            sqrt(t + 0.5) (`VASupConLoss.for_classes`, `.for_multilabel`).
        temperature: divides the inner products; positive. A one-element tensor may require a
            gradient, which is exact and costs no second pass; on a GPU its value is not checked.
        radius: positives lie strictly closer than this (Euclidean); at least 0.
        sigma: above 0, every pair is a positive of weight exp(-d^2 / (2 sigma^2)) at distance d,
            and `radius` is ignored.
        contrast_embeddings: [M, D] to contrast with, of the same dtype; the anchors themselves
            by default.
        contrast_coordinates: [M, p], given exactly when `contrast_embeddings` is.
        self_offset: anchor i's own copy is row i + self_offset of the contrast set; None when it
            holds no copy of the anchors (a memory bank). 0 when contrasting with the anchors.
        tie_self: the anchors' own copies in `contrast_embeddings`, which carries no gradient, stand
            for the anchors: the gradient that they are due goes to `embeddings`. For a memory that
            holds the batch already; a gradient of the whole contrast set is never made.
        groups: [N] integers, for instance the dialogue of each sample.
        contrast_groups: [M] integers, given exactly when `groups` and `contrast_embeddings` are.
        group_pairs: pairs of one group are positives as well ("positive"), or leave the loss
            altogether, numerator and denominator ("exclude").
        self_weight: weight of the pair of a sample with itself, in [0, 1]. 0 leaves it out; 0.5
            gives, up to the constant log 2, the loss of two equal views as the authors' code has
            it.
        sample_weights: [N], at least 0; multiply the anchors' losses, and divide the mean.
        no_positives: an anchor without positives is left out of the mean ("skip"), counts as 0
            ("zero"), or raises ("error", which synchronises with the device). If no anchor has
            any, "skip" gives 0. An anchor whose loss happens to be 0 is never left out.
        reduction: "mean", "sum", or "none" for a loss per anchor, 0 where there is no positive.
        normalize: scale every embedding to unit L2 norm first.
        anchor_views: with [N, V, D], every view is an anchor ("all") or the first one ("one").

    Returns:
        0-dim tensor; with reduction "none" [N], or [N, V] where every view is an anchor. float64
        for float64 embeddings, else float32. NaN in an embedding makes the loss NaN.

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
    _checks.choice("anchor_views", anchor_views, ("all", "one"))
    views = 0
    if isinstance(embeddings, Tensor) and embeddings.dim() == 3:
        if contrast_embeddings is not None or tie_self:
            raise ValueError("contrast_embeddings need embeddings [N, D], without views")
        count, views = embeddings.shape[:2]
        if views == 0:
            raise ValueError("embeddings [N, V, D] must have at least one view")
        # Views one after the other, so that the first ones are the first N rows.
        every = embeddings.transpose(0, 1).flatten(0, 1)  # [V N, D]
        anchors = embeddings[:, 0]
        coordinates = _checks.as_coordinates("coordinates", coordinates, anchors, "embeddings")
        groups = _checks.groups_1d("groups", groups, anchors, "embeddings")
        sample_weights = _checks.rows_1d("sample_weights", sample_weights, anchors, "embeddings")
        every_coordinates = coordinates.repeat(views, 1)
        every_groups = None if groups is None else groups.repeat(views)
        if anchor_views == "all":
            embeddings, coordinates, groups = every, every_coordinates, every_groups
            if sample_weights is not None:
                sample_weights = sample_weights.repeat(views)
        else:
            embeddings, contrast_embeddings = anchors, every
            contrast_coordinates, contrast_groups = every_coordinates, every_groups
            self_offset = 0
    losses, count_of = contrastive_terms(
        embeddings,
        coordinates,
        temperature=temperature,
        radius=radius,
        sigma=sigma,
        contrast_embeddings=contrast_embeddings,
        contrast_coordinates=contrast_coordinates,
        self_offset=self_offset,
        tie_self=tie_self,
        groups=groups,
        contrast_groups=contrast_groups,
        group_pairs=group_pairs,
        self_weight=self_weight,
        normalize=normalize,
    )
    sample_weights = _checks.rows_1d("sample_weights", sample_weights, embeddings, "embeddings")
    some = count_of != 0  # NaN coordinates make NaN, not 0
    if no_positives == "error" and not bool(some.all()):
        row = int((~some).nonzero()[0])
        raise ValueError(
            f"anchor {row} has no positive"
            + (f" within radius {radius}" if sigma is None else "")
            + '; widen the radius or pass no_positives="skip"'
        )
    if sample_weights is not None:
        losses = losses * sample_weights.to(losses.dtype)
    if reduction == "none":
        return losses.view(views, count).T if views and anchor_views == "all" else losses
    if reduction == "sum":
        return losses.sum()
    return losses.sum() / _total_weight(some, sample_weights, no_positives, losses)


def _total_weight(
    some: Tensor, sample_weights: Tensor | None, no_positives: NoPositives, losses: Tensor
) -> Tensor | int:
    """What a mean divides by: the anchors that count, or their weights; 1 instead of 0."""
    if sample_weights is not None:
        counted = sample_weights.to(losses.dtype)
        if no_positives == "skip":
            counted = counted * some
        total = counted.sum()
        return total.where(total != 0, 1)
    if no_positives == "skip":
        return some.sum().clamp(min=1)
    return max(1, len(losses))


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
