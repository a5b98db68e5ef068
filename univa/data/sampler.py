"""Batches of whole dialogues, the same on every run and every rank.

The loss compares utterances of a batch, and the text encoder reads whole dialogues: a batch that
holds whole dialogues encodes each of them once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise

from univa.errors import UserError

__all__ = ["DialogueBatchSampler"]


class DialogueBatchSampler:
    """Packs dialogues into batches of at most `batch_size` utterances.

    Dialogues are shuffled by (seed, epoch) and packed in that order; a batch is closed when the
    next dialogue does not fit. A dialogue longer than `batch_size` is cut into near-equal chunks of
    consecutive utterances, each a batch of its own. The order depends on nothing but the arguments
    and the epoch, so a resumed run asks for `batches(epoch)` again and leaves out the first k.

    Ranks: batch k goes to rank k modulo `world_size`. The number of batches is brought to a
    multiple of `world_size` by halving the largest batches (between two dialogues where there are
    several), so that all ranks make the same number of steps and, together, see every utterance
    exactly once. Only when single utterances are left and still do not fill the ranks are batches
    from the start of the epoch given out a second time.

    Args:
        dialogue_lengths: Number of utterances of each dialogue, in the order of the split.
        batch_size: The most utterances of a batch, per rank.
        seed: With the epoch, decides the order.
        rank: Which part this process takes; evaluation takes rank 0 of 1.
        world_size: Number of processes.
        shuffle: False keeps the order of the split in every epoch.

    Raises:
        UserError: `batch_size` is below 1 or there is nothing to sample.
    """

    def __init__(
        self,
        dialogue_lengths: Sequence[int],
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        if not dialogue_lengths or min(dialogue_lengths) < 1:
            raise UserError("no dialogue to sample from, or one without utterances")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        starts = accumulate(dialogue_lengths[:-1], initial=0)
        self._dialogues = [
            list(range(start, start + length))
            for start, length in zip(starts, dialogue_lengths, strict=True)
        ]

    def batches(self, epoch: int) -> list[list[int]]:
        """Batches of this rank in one epoch, in order.

        Args:
            epoch: 0-based epoch; the same epoch always gives the same batches.

        Returns:
            Non-empty lists of utterance indices into the split.
        """
        return [
            [index for dialogue in batch for index in dialogue]
            for batch in self._all_batches(epoch)[self.rank :: self.world_size]
        ]

    def total_batches(self, epochs: int) -> int:
        """Steps that this rank makes in so many epochs.

        How dialogues pack varies with their order, so epochs may differ in their number of batches.

        Args:
            epochs: Number of epochs, counted from epoch 0.
        """
        return sum(len(self._all_batches(epoch)) for epoch in range(epochs)) // self.world_size

    def _all_batches(self, epoch: int) -> list[list[list[int]]]:
        """Batches of all ranks; each is a list of dialogues (or one chunk of a long dialogue)."""
        order = list(self._dialogues)
        # random.Random hashes a string seed with SHA-512: the same order on every platform.
        generator = random.Random(f"dialogues {self.seed} {epoch}")
        if self.shuffle:
            generator.shuffle(order)
        batches: list[list[list[int]]] = []
        current: list[list[int]] = []
        size = 0
        for dialogue in order:
            if current and size + len(dialogue) > self.batch_size:
                batches.append(current)
                current, size = [], 0
            if len(dialogue) > self.batch_size:
                batches.extend([chunk] for chunk in _chunks(dialogue, self.batch_size))
            else:
                current.append(dialogue)
                size += len(dialogue)
        if current:
            batches.append(current)
        self._fill_ranks(batches)
        if self.shuffle:
            # Otherwise the short last batch would always end the epoch on the same rank, and the
            # chunks of one long dialogue would follow each other.
            generator.shuffle(batches)
        return batches

    def _fill_ranks(self, batches: list[list[list[int]]]) -> None:
        while len(batches) % self.world_size:
            sizes = [sum(map(len, batch)) for batch in batches]
            largest = max(range(len(batches)), key=sizes.__getitem__)
            if sizes[largest] < 2:
                missing = -len(batches) % self.world_size
                batches.extend(batches[i % len(batches)] for i in range(missing))
                return
            batches[largest : largest + 1] = _halves(batches[largest])


def _chunks(dialogue: list[int], size: int) -> list[list[int]]:
    """Fewest near-equal consecutive parts of at most `size`."""
    count = -(-len(dialogue) // size)
    bounds = [len(dialogue) * part // count for part in range(count + 1)]
    return [dialogue[a:b] for a, b in pairwise(bounds)]


def _halves(batch: list[list[int]]) -> list[list[list[int]]]:
    if len(batch) == 1:
        middle = len(batch[0]) // 2
        return [[batch[0][:middle]], [batch[0][middle:]]]
    total = sum(map(len, batch))
    before = list(accumulate(map(len, batch[:-1])))  # utterances before each inner boundary
    cut = min(range(len(before)), key=lambda place: abs(total - 2 * before[place])) + 1
    return [batch[:cut], batch[cut:]]
