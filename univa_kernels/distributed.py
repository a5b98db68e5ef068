"""The loss of the batches of all ranks, through torch.distributed.

On W ranks, each with its own rows (any number, also none), `va_supcon_loss_distributed` returns the
loss that one process would return for all rows together, in the order of the ranks. Anchors stay
where they are and are contrasted with the gathered rows, so that memory is linear in their number.

**Gradients.** Backward gives every rank the gradient, with respect to its own rows, of the sum over
ranks of what each rank made of the loss. If every rank calls `backward()` on the returned loss,
that is W times the gradient of one process with all rows. DistributedDataParallel divides by W, and
the parameters get exactly the gradient of the one process. Without DDP, sum the parameters'
gradients over ranks and divide by W.

Every rank must make the same calls, forward and backward, or the others wait for it. Where
torch.distributed is not initialised, or there is one rank, nothing is communicated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
import torch.distributed as dist
from torch import Tensor

from univa_kernels import _checks
from univa_kernels.functional import (
    AnchorViews,
    GroupPairs,
    NoPositives,
    Reduction,
    check_contrast,
    check_tie,
    contrastive_terms,
    va_supcon_loss,
)
from univa_kernels.reference import with_own_rows

__all__ = ["gather_rows", "row_counts", "sum_over_ranks", "va_supcon_loss_distributed"]


def row_counts(tensor: Tensor, group: dist.ProcessGroup | None = None) -> tuple[int, ...]:
    """How many rows `tensor` has on each rank.

    The counts travel between hosts where the group has a CPU backend (as that of
    `init_process_group()` without a backend has). In an NCCL-only group they travel between
    devices, and the host waits for its device.

    Args:
        tensor: [N, ...]; N differs from rank to rank.
        group: the ranks; all of them by default.

    Raises:
        ValueError: this process is not in `group`.

    Example:
        >>> import torch
        >>> from univa_kernels.distributed import row_counts
        >>> row_counts(torch.zeros(3, 2))  # torch.distributed is not initialised
        (3,)
    """
    _, world = _place(group)
    if world == 1:
        return (len(tensor),)
    device = "cpu" if "cpu:" in dist.get_backend_config(group) else tensor.device
    own = torch.tensor([len(tensor)], device=device)
    every = own.new_empty(world)
    _collective("all_gather_single")(every, own, group=group)
    return tuple(every.tolist())


def gather_rows(
    tensor: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """The rows of all ranks, in the order of the ranks; differentiable any number of times.

    The gradient of a rank's own rows is the sum of the gradients that all ranks have for them:
    exactly that of the sum of what the ranks compute.

    Args:
        tensor: [N, ...] of any dtype; N may differ from rank to rank, and be 0.
        group: the ranks; all of them by default.
        sizes: the N of each rank where they are known; asked for by `row_counts` otherwise.

    Returns:
        [sum of sizes, ...]; `tensor` itself where there is one rank.

    Raises:
        ValueError: this process is not in `group`, or `sizes` do not fit.

    Example:
        >>> import torch
        >>> from univa_kernels.distributed import gather_rows
        >>> gather_rows(torch.ones(3, 2)).shape  # torch.distributed is not initialised
        torch.Size([3, 2])
    """
    rank, world = _place(group)
    sizes = _sizes(tensor, group, sizes)
    if world == 1:
        return tensor
    if tensor.dtype == torch.bool:  # not every backend has it
        return gather_rows(tensor.to(torch.uint8), group, sizes=sizes).bool()
    return _gather(tensor, sizes, rank, group)


def sum_over_ranks(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The sum of a tensor over ranks; differentiable any number of times.

    Its gradient is the sum over ranks of what comes from above: that of the sum of what the ranks
    compute.

    Args:
        tensor: of one shape on all ranks.
        group: the ranks; all of them by default.

    Raises:
        ValueError: this process is not in `group`.

    Example:
        >>> import torch
        >>> from univa_kernels.distributed import sum_over_ranks
        >>> float(sum_over_ranks(torch.tensor(2.0)))  # torch.distributed is not initialised
        2.0
    """
    if _place(group)[1] == 1:
        return tensor
    return _sum(tensor, group)


class PairOptions(TypedDict, total=False):
    """Arguments of `univa_kernels.va_supcon_loss` that say what a pair of rows comes to."""

    temperature: float | Tensor
    radius: float
    sigma: float | None
    group_pairs: GroupPairs
    self_weight: float
    normalize: bool


def va_supcon_loss_distributed(
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
    no_positives: NoPositives = "skip",
    reduction: Reduction = "mean",
    anchor_views: AnchorViews = "all",
    group: dist.ProcessGroup | None = None,
    sizes: Sequence[int] | None = None,
    **options: Unpack[PairOptions],
) -> Tensor:
    """`univa_kernels.va_supcon_loss` of the rows of all ranks, on every rank.

    Takes the arguments of `va_supcon_loss`, for the rank's own rows. Numbers, options, dtypes and
    which tensors are given must be the same on all ranks; the numbers of rows need not.

    Args:
        embeddings: [N, D] or [N, V, D]; N may be 0.
        coordinates: [N, p] or [N].
        contrast_embeddings: [M, D], the rank's part of the contrast set (its memory bank). Anchors
            of all ranks are contrasted with the parts of all ranks.
        contrast_coordinates: [M, p] or [M].
        self_offset: where the own copies begin in the rank's own part; all must lie in it.
        tie_self: as there. The rank's part is copied, with the anchors in place.
        groups: [N] integers that mean the same on all ranks.
        contrast_groups: [M].
        sample_weights: [N].
        no_positives: "skip", "zero" or "error", which raises on all ranks if an anchor of any rank
            has no positive.
        reduction: "mean" and "sum" are over the anchors of all ranks; "none" gives the losses of
            the rank's own.
        anchor_views: "all" or "one".
        group: the ranks; all of them by default.
        sizes: how many rows each rank has in `embeddings` (in `contrast_embeddings` where that is
            given), if they are known, as with drop_last. Saves an exchange, and in an NCCL-only
            group the wait for the device.
        **options: temperature, radius, sigma, group_pairs, self_weight, normalize, as there.

    Returns:
        As `va_supcon_loss`; with "mean" and "sum" the same number on all ranks. The gradient is
        such that DistributedDataParallel's averaging makes it that of one process with all rows
        (see the module's docstring); with "none", that of the mean over ranks of what each rank
        makes of its losses.

    Raises:
        TypeError: as `va_supcon_loss`.
        ValueError: as `va_supcon_loss`; and if this process is not in `group`, `sizes` do not fit,
            or an own copy lies outside the rank's part of the contrast set.

    Example:
        >>> import torch
        >>> from univa_kernels.distributed import va_supcon_loss_distributed
        >>> embeddings = torch.randn(8, 16, requires_grad=True)  # DistributedDataParallel(...)(...)
        >>> va_supcon_loss_distributed(embeddings, torch.rand(8, 2), radius=0.5).backward()
    """
    rank, world = _place(group)
    if world == 1:
        return va_supcon_loss(
            embeddings,
            coordinates,
            contrast_embeddings=contrast_embeddings,
            contrast_coordinates=contrast_coordinates,
            self_offset=self_offset,
            tie_self=tie_self,
            groups=groups,
            contrast_groups=contrast_groups,
            sample_weights=sample_weights,
            no_positives=no_positives,
            reduction=reduction,
            anchor_views=anchor_views,
            **options,
        )
    _checks.choice("no_positives", no_positives, ("skip", "zero", "error"))
    _checks.choice("reduction", reduction, ("none", "mean", "sum"))
    _checks.choice("anchor_views", anchor_views, ("all", "one"))
    first, every, views = _by_view(embeddings, coordinates, groups)
    anchors = every if anchor_views == "all" else first
    weights = _checks.rows_1d("sample_weights", sample_weights, first.embeddings, "embeddings")
    if weights is not None and anchor_views == "all":
        weights = weights.repeat(views)
    if contrast_embeddings is not None:
        if embeddings.dim() == 3:
            raise ValueError("contrast_embeddings need embeddings [N, D], without views")
        if contrast_coordinates is None:
            raise ValueError("contrast_embeddings need contrast_coordinates")
        if (groups is None) != (contrast_groups is None):
            raise ValueError("groups and contrast_groups go together: give both or neither")
        part = _rows("contrast_", contrast_embeddings, contrast_coordinates, contrast_groups)
        _check_offset(self_offset, len(first.embeddings), len(part.embeddings))
        if tie_self:  # other ranks' anchors have gradients for these rows too: they travel
            check_contrast(*first, *part)
            check_tie(embeddings, contrast_embeddings, self_offset)
            own = with_own_rows(embeddings, contrast_embeddings, self_offset or 0)
            part = part._replace(embeddings=own)
    elif contrast_coordinates is not None or contrast_groups is not None:
        raise ValueError("contrast_coordinates and contrast_groups need contrast_embeddings")
    elif self_offset not in (None, 0):
        raise ValueError("self_offset needs contrast_embeddings: without, it is 0")
    elif tie_self:
        raise ValueError("tie_self needs contrast_embeddings: without, the anchors are these")
    else:
        part, self_offset = every, 0
    if sizes is not None:
        sizes = [size * views for size in sizes]
    sizes = _sizes(part.embeddings, group, sizes)
    losses, count = contrastive_terms(
        anchors.embeddings,
        anchors.coordinates,
        contrast_embeddings=gather_rows(part.embeddings, group, sizes=sizes),
        contrast_coordinates=gather_rows(part.coordinates, group, sizes=sizes),
        self_offset=None if self_offset is None else sum(sizes[:rank]) + self_offset,
        groups=anchors.groups,
        contrast_groups=(
            None if part.groups is None else gather_rows(part.groups, group, sizes=sizes)
        ),
        **options,
    )
    some = count != 0
    if weights is not None:
        losses = losses * weights.to(losses.dtype)
    weight = torch.ones_like(losses) if weights is None else weights.to(losses.dtype)
    if no_positives == "skip":
        weight = weight * some
    if reduction != "none" or no_positives == "error":
        total, divisor, missing = sum_over_ranks(
            torch.stack((losses.sum(), weight.sum(), (~some).sum().to(losses.dtype))), group
        ).unbind()
        if no_positives == "error" and bool(missing > 0):
            raise ValueError(
                f"{int(missing)} anchors of all ranks have no positive; "
                'widen the radius or pass no_positives="skip"'
            )
    if reduction == "none":
        if anchor_views == "all" and embeddings.dim() == 3:
            return losses.view(views, -1).T
        return losses
    return total if reduction == "sum" else total / divisor.where(divisor != 0, 1)


class _Rows(NamedTuple):
    embeddings: Tensor  # [N, D]
    coordinates: Tensor  # [N, p]
    groups: Tensor | None  # [N]


def _rows(prefix: str, embeddings: Tensor, coordinates: Tensor, groups: Tensor | None) -> _Rows:
    """Check what one rank can tell, before others wait for it."""
    name = f"{prefix}embeddings"
    _checks.embeddings_2d(name, embeddings)
    return _Rows(
        embeddings,
        _checks.as_coordinates(f"{prefix}coordinates", coordinates, embeddings, name),
        _checks.groups_1d(f"{prefix}groups", groups, embeddings, name),
    )


def _by_view(
    embeddings: Tensor, coordinates: Tensor, groups: Tensor | None
) -> tuple[_Rows, _Rows, int]:
    """Rows of the first view, rows of all views (first ones first), number of views."""
    if not isinstance(embeddings, Tensor) or embeddings.dim() != 3:
        rows = _rows("", embeddings, coordinates, groups)
        return rows, rows, 1
    views = embeddings.shape[1]
    if views == 0:
        raise ValueError("embeddings [N, V, D] must have at least one view")
    first = _rows("", embeddings[:, 0], coordinates, groups)
    every = _Rows(
        embeddings.transpose(0, 1).flatten(0, 1),
        first.coordinates.repeat(views, 1),
        None if first.groups is None else first.groups.repeat(views),
    )
    return first, every, views


def _check_offset(self_offset: int | None, anchors: int, part: int) -> None:
    """Require own copies in the rank's own part: behind it begins that of the next rank."""
    if self_offset is None:
        return
    if isinstance(self_offset, bool) or not isinstance(self_offset, int):
        raise TypeError(f"self_offset must be an int or None, got {self_offset!r}")
    if anchors and not 0 <= self_offset <= part - anchors:
        raise ValueError(
            f"self_offset must be from 0 to {part - anchors}, so that the {anchors} own copies lie "
            f"within the {part} rows of contrast_embeddings, got {self_offset}"
        )


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """Rank and number of ranks; 0 and 1 without torch.distributed."""
    if not dist.is_available() or not dist.is_initialized():
        return 0, 1
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group does not hold this process: pass one that does")
    return rank, dist.get_world_size(group)


def _sizes(
    tensor: Tensor, group: dist.ProcessGroup | None, sizes: Sequence[int] | None
) -> tuple[int, ...]:
    """Rows of `tensor` on each rank: as given, checked, or else asked for."""
    if sizes is None:
        return row_counts(tensor, group)
    rank, world = _place(group)
    if len(sizes) != world or sizes[rank] != len(tensor):
        raise ValueError(
            f"sizes must have one entry for each of {world} ranks, and that of rank {rank} must "
            f"tell its {len(tensor)} rows, got {list(sizes)}"
        )
    return tuple(sizes)


def _collective(name: str) -> Callable[..., Any]:
    """A collective by its name since torch 2.13, which deprecates the older one."""
    older = {
        "all_gather_single": "all_gather_into_tensor",
        "reduce_scatter_single": "reduce_scatter_tensor",
    }
    found: Callable[..., Any] = getattr(dist, name if hasattr(dist, name) else older[name])
    return found


# Collectives take equal shapes: rows are padded to the most that any rank has.


class _Gather(torch.autograd.Function):
    """Rows of all ranks, one after the other. Its adjoint is _Scatter, and the reverse."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: tuple[int, ...], rank: int, group: Any) -> Tensor:
        ctx.place = sizes, rank, group
        most = max(sizes)
        padded = _pad(own, most)
        every = own.new_empty((len(sizes) * most, *own.shape[1:]))
        if every.numel():
            _collective("all_gather_single")(every, padded, group=group)
        if min(sizes) == most:
            return every
        blocks = every.view(len(sizes), most, *own.shape[1:])
        return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _scatter(grad, *ctx.place), None, None, None


class _Scatter(torch.autograd.Function):
    """Sum over ranks of the rows that belong to this one."""

    @staticmethod
    def forward(ctx: Any, every: Tensor, sizes: tuple[int, ...], rank: int, group: Any) -> Tensor:
        ctx.place = sizes, rank, group
        most = max(sizes)
        padded = every
        if min(sizes) != most:
            padded = torch.cat([_pad(rows, most) for rows in torch.split(every, list(sizes))])
        own = every.new_empty((most, *every.shape[1:]))
        if own.numel():
            _collective("reduce_scatter_single")(own, padded.contiguous(), group=group)
        return own[: sizes[rank]]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _gather(grad, *ctx.place), None, None, None


class _Sum(torch.autograd.Function):
    """Sum over ranks; its own adjoint."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _sum(grad, ctx.group), None


_gather: Callable[..., Tensor] = _Gather.apply
_scatter: Callable[..., Tensor] = _Scatter.apply
_sum: Callable[..., Tensor] = _Sum.apply


def _pad(rows: Tensor, count: int) -> Tensor:
    """`rows` [n, ...] with zeros behind, [count, ...]."""
    if len(rows) == count:
        return rows.contiguous()
    return torch.cat((rows, rows.new_zeros((count - len(rows), *rows.shape[1:]))))
