"""Contrast with past batches: a first-in, first-out memory around a loss."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from univa_kernels import _checks
from univa_kernels._autograd import in_plain_eager_mode

__all__ = ["CrossBatchMemory"]

_BUFFERS = ("embeddings", "coordinates", "groups")


@dataclass
class _Store:
    """An allocation that the newest of what was written to it is remembered in."""

    rows: Tensor  # [capacity, D]
    used: int  # rows written so far; they stay as they are, a backward may still need them

    def takes(self, remembered: Tensor, batch: Tensor) -> bool:
        """Whether a batch may be written behind what is remembered, which must be the newest."""
        count, end = len(remembered), self.used + len(batch)
        if not 0 < count <= self.used or end > len(self.rows):
            return False
        newest = self.rows[self.used - count : self.used]
        return (
            remembered.dtype == batch.dtype == newest.dtype
            and remembered.device == batch.device == newest.device
            and newest.is_inference() == torch.is_inference_mode_enabled()
            # Anything else somebody has put there, or goes back to (torch.func.functional_call).
            and remembered.data_ptr() == newest.data_ptr()
            and (remembered.shape, remembered.stride()) == (newest.shape, newest.stride())
        )


class CrossBatchMemory(nn.Module):
    """Contrast every batch with itself and with the last `memory_size` rows of earlier ones.

    Wang et al., *Cross-Batch Memory for Embedding Learning*, CVPR 2020. Small batches get many
    negatives and positives at the price of one matrix product. Past embeddings carry no gradient;
    the batch does, both as anchors and as contrast. An anchor's pair with itself is weighted by the
    loss's `self_weight`. The batch enters the memory after its loss, and only in training mode: in
    evaluation the memory serves and stays as it is.

    The memory is right before it is full: it holds as many rows as it has been given, and what
    state_dict holds is these rows. How many they are is a shape, so that nothing ever waits for the
    device. Embeddings follow the batch in dtype and device; coordinates keep their dtype
    under `.half()` and the like, since rounded ones would have other neighbours.

    Where the loss takes `tie_self`, a step costs neither a copy of the memory nor a gradient of it:
    rows are written behind the last ones, into an allocation of a quarter more than `memory_size`
    (or of a batch more, where that is larger), and moved to a new one when its end is reached.

    In distributed training every rank has a memory of its own rows. With `gather_distributed` in
    the loss, anchors meet the memories of all ranks. Leave the module out of what
    DistributedDataParallel wraps, which would make rank 0's buffers everyone's.

    Args:
        loss: called as `loss(embeddings, coordinates, contrast_embeddings=...,
            contrast_coordinates=..., self_offset=...)`, with `tie_self=True` where its signature
            has that, and with `groups` and `contrast_groups` where groups are given: a
            `VASupConLoss`, or `functools.partial` of `va_supcon_loss`.
        memory_size: rows to remember; at least 1.

    Attributes:
        embeddings: [n, D], oldest first, n <= memory_size.
        coordinates: [n, p].
        groups: [n] int64; [0] where groups are not used.

    Raises:
        TypeError: `loss` cannot be called, or `memory_size` is not an int.
        ValueError: `memory_size` is below 1.

    Example:
        >>> import torch
        >>> from univa_kernels import VASupConLoss
        >>> from univa_kernels.losses.cross_batch_memory import CrossBatchMemory
        >>> loss = CrossBatchMemory(VASupConLoss(temperature=0.1, radius=0.25), memory_size=100)
        >>> for _ in range(3):
        ...     embeddings = torch.randn(8, 16, requires_grad=True)
        ...     loss(embeddings, torch.rand(8, 2)).backward()
        >>> loss.filled
        24
    """

    embeddings: Tensor
    coordinates: Tensor
    groups: Tensor

    def __init__(self, loss: Callable[..., Tensor], *, memory_size: int) -> None:
        super().__init__()
        if not callable(loss):
            raise TypeError(f"loss must be callable, got {type(loss).__name__}")
        if isinstance(memory_size, bool) or not isinstance(memory_size, int):
            raise TypeError(f"memory_size must be an int, got {type(memory_size).__name__}")
        if memory_size < 1:
            raise ValueError(f"memory_size must be at least 1, got {memory_size}")
        self.loss = loss
        self.memory_size = memory_size
        # The loss that was asked whether it takes `tie_self`: another may take its place.
        self._asked: tuple[Callable[..., Tensor], bool] = (loss, _takes_tie(loss))
        self._store: _Store | None = None  # what `embeddings` is a part of
        self.register_buffer("embeddings", torch.empty(0, 0))
        self.register_buffer("coordinates", torch.empty(0, 0))
        self.register_buffer("groups", torch.empty(0, dtype=torch.int64))

    @property
    def filled(self) -> int:
        """Rows remembered now."""
        return len(self.embeddings)

    def reset(self) -> None:
        """Forget everything."""
        self._store = None
        for name in _BUFFERS:
            setattr(self, name, getattr(self, name)[:0].clone())

    def forward(
        self,
        embeddings: Tensor,
        coordinates: Tensor,
        *,
        groups: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        """Return the loss of a batch, then (in training mode) remember the batch.

        Args:
            embeddings: [N, D] floating; N may exceed the memory.
            coordinates: [N, p] or [N].
            groups: [N] integers, in every call or in none.
            **options: passed to the loss, for instance `sample_weights` [N].

        Raises:
            TypeError: wrong type or dtype.
            ValueError: wrong shape, or one that does not fit what is remembered.
        """
        _checks.embeddings_2d("embeddings", embeddings)
        coordinates = _checks.as_coordinates("coordinates", coordinates, embeddings, "embeddings")
        groups = _checks.groups_1d("groups", groups, embeddings, "embeddings")
        self._check_fits(embeddings, coordinates, groups)
        past = self.filled
        # What the loss sees is also what is remembered, by views of its end.
        tied = self._can_tie(embeddings)
        if tied:
            contrast = self._append(embeddings.detach())
            options |= {"tie_self": True}
        else:
            contrast = torch.cat((_past(self.embeddings, embeddings).to(embeddings), embeddings))
        contrast_coordinates = torch.cat((_past(self.coordinates, coordinates), coordinates))
        contrast_groups = self.groups
        if groups is not None:
            contrast_groups = torch.cat((_past(self.groups, groups), groups))
            options |= {"groups": groups, "contrast_groups": contrast_groups}
        loss = self.loss(
            embeddings,
            coordinates,
            contrast_embeddings=contrast,
            contrast_coordinates=contrast_coordinates,
            self_offset=past,
            **options,
        )
        if self.training:
            remembered = contrast.detach()[-self.memory_size :]
            self.embeddings = remembered if tied else remembered.clone()
            self.coordinates = contrast_coordinates.detach()[-self.memory_size :].clone()
            self.groups = contrast_groups[-self.memory_size :].clone()
        return loss

    def _can_tie(self, embeddings: Tensor) -> bool:
        """Whether the batch may be written behind what is remembered before its loss is known.

        Not in evaluation: the next batch would overwrite it while its backward may be to come. Not
        where something traces, which sees no memory behind tensors.
        """
        if not (
            self.training
            and in_plain_eager_mode(embeddings)
            and not torch._C._are_functorch_transforms_active()
            and embeddings.shape[1] > 0
        ):
            return False
        if self._asked[0] is not self.loss:
            self._asked = (self.loss, _takes_tie(self.loss))
        return self._asked[1]

    def _append(self, batch: Tensor) -> Tensor:
        """Write a batch [N, D] behind what is remembered; that and the batch, [n + N, D]."""
        count, size = self.filled, len(batch)
        store = self._store
        if store is None or not store.takes(self.embeddings, batch):
            most = min(self.memory_size, 2 * (count + size))  # it grows as rows come
            rows = batch.new_empty((most + max(size, most // 4), batch.shape[1]))
            if count:
                rows[:count] = self.embeddings
            self._store = store = _Store(rows, count)
        end = store.used + size
        # `data`: for autograd a write to any of its rows would be one to those that are in use.
        store.rows.data[store.used : end] = batch
        store.used = end
        return store.rows[end - size - count : end]

    def _check_fits(self, embeddings: Tensor, coordinates: Tensor, groups: Tensor | None) -> None:
        """Require a batch of the kind that is remembered; by shapes alone."""
        if not self.filled:
            return
        for name, batch in (("embeddings", embeddings), ("coordinates", coordinates)):
            columns = getattr(self, name).shape[1]
            if batch.shape[1] != columns:
                raise ValueError(
                    f"{name} must have {columns} columns, as the remembered ones have, "
                    f"got {batch.shape[1]}; reset() forgets them"
                )
        if (len(self.groups) == self.filled) != (groups is not None):
            raise ValueError("groups must be given in every call or in none; reset() starts afresh")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self._store = None
        coordinates = self.coordinates
        apply: Callable[..., Any] = super()._apply  # torch leaves it without types
        apply(fn, recurse)
        if self.coordinates.dtype != coordinates.dtype:
            self.coordinates = coordinates.to(self.coordinates.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles have what is remembered, and no allocation that two write to."""
        remembered = self._buffers["embeddings"]
        buffers = self._buffers | {"embeddings": None if remembered is None else remembered.clone()}
        return self.__dict__ | {"_store": None, "_buffers": buffers}

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        """Save what is remembered, not the allocation that it is a part of."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "embeddings"] = destination[prefix + "embeddings"].clone()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        """Take as many rows as were saved, the newest ones if they are too many."""
        for name in _BUFFERS:
            value = state_dict.get(prefix + name)
            if isinstance(value, Tensor):
                value = value[-self.memory_size :]
                state_dict[prefix + name] = value
                setattr(self, name, torch.empty_like(value, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    def extra_repr(self) -> str:
        """Show the options in `repr`."""
        return f"memory_size={self.memory_size}, filled={self.filled}"


def _takes_tie(loss: Callable[..., Tensor]) -> bool:
    """Whether a loss names `tie_self` among its arguments."""
    try:
        signature = inspect.signature(getattr(loss, "forward", loss))
    except (TypeError, ValueError):  # some that are not written in Python have none
        return False
    return "tie_self" in signature.parameters


def _past(remembered: Tensor, batch: Tensor) -> Tensor:
    """What is remembered, on the batch's device; no rows of its shape if that is nothing."""
    return remembered.to(batch.device) if len(remembered) else batch[:0].detach()
