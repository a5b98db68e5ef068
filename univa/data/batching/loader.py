"""Batches made ahead of the training loop, in its order."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from univa.batch import Batch
from univa.data.batching.collate import Collator
from univa.errors import UserError

__all__ = ["load_batches"]


def _outlive_sigterm(_: int) -> None:
    """Leave SIGTERM, which schedulers send to all processes of a job, to the training process.

    It needs the workers until it has saved, and ends them then; they look whether it still lives.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Batches(Dataset[Batch | UserError]):
    """One item per batch. A mistake travels as a value: a worker's own message has many lines."""

    def __init__(self, collator: Collator, batches: Sequence[Sequence[int]]) -> None:
        self.collator, self.batches = collator, batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: int) -> Batch | UserError:
        try:
            return self.collator(self.batches[place])
        except UserError as error:
            return error


def load_batches(
    collator: Collator, batches: Sequence[Sequence[int]], *, workers: int = 0, pin: bool = False
) -> Iterator[Batch]:
    """Make batches, in the given order whatever the number of workers.

    Args:
        collator: makes a batch of utterances.
        batches: utterances of each batch.
        workers: processes that make them ahead of time; 0 makes each when it is asked for.
        pin: make them ahead in page-locked memory, for copies to a GPU that nothing waits for.

    Raises:
        UserError: what the collator raises.
    """
    loader = DataLoader(
        _Batches(collator, batches),
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_outlive_sigterm,
        generator=torch.Generator().manual_seed(0),  # not the run's own: it would move on
    )
    for batch in loader:
        if isinstance(batch, UserError):
            raise batch
        yield batch
