"""Batches of whole dialogues, the same on every run and every rank.

The loss compares utterances of a batch, and the text encoder reads whole dialogues: a batch that
holds whole dialogues encodes each of them once.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import accumulate, pairwise

from univa.errors import UserError

__all__ = ["DialogueBatchSampler", "UtteranceBatchSampler"]


class DialogueBatchSampler:
    """Packs dialogues into batches of at most `batch_size` utterances.

    Dialogues are shuffled by (seed, epoch) and packed in that order; a batch is closed when the
    next dialogue does not fit. A dialogue longer than `batch_size` is cut into near-equal chunks of
    consecutive utterances, each a batch of its own. The order depends on nothing but the arguments
    and the epoch, so a resumed run asks for `batches(epoch)` again and leaves out the first k.

    Ranks: a batch of `batch_size` x `world_size` utterances is packed for all ranks together, so
    that any number of ranks sees the batches that one rank with so large a `batch_size` would see,
    and shared out: dialogue by dialogue where no rank gets more than `batch_size` that way, else in
    near-equal runs of utterances. All ranks make the same number of steps and, together, see every
    utterance exactly once (where there are fewer utterances than ranks, some again).

    Args:
        dialogue_lengths: Number of utterances of each dialogue, in the order of the split.
        batch_size: The most utterances of a batch, per rank.
        seed: With the epoch, decides the order.
        rank: Which part this process takes; evaluation takes rank 0 of 1.
        world_size: Number of processes.
        shuffle: False keeps the order of the split in every epoch.
        dialogue_tokens: Tokens of each dialogue, for `batch_tokens`.
        batch_tokens: The most tokens of a batch, per rank, where whole dialogues allow it; 0 sets
            no bound.

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
        dialogue_tokens: Sequence[int] | None = None,
        batch_tokens: int = 0,
    ) -> None:
        _check_ranks(batch_size, rank, world_size)
        if not dialogue_lengths or min(dialogue_lengths) < 1:
            raise UserError("no dialogue to sample from, or one without utterances")
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.shuffle = shuffle
        starts = accumulate(dialogue_lengths[:-1], initial=0)
        self.batch_tokens = batch_tokens if dialogue_tokens is not None else 0
        self._tokens = dict(
            zip(accumulate(dialogue_lengths[:-1], initial=0), dialogue_tokens or (), strict=False)
        )
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
        return [shared[self.rank] for shared in self._all_batches(epoch)]

    def sizes(self, epoch: int) -> list[int]:
        """Utterances that all ranks together have in each batch of an epoch."""
        return [sum(map(len, shared)) for shared in self._all_batches(epoch)]

    def total_steps(self, epochs: int, accumulate: int = 1) -> int:
        """Steps that every rank makes in so many epochs.

        How dialogues pack varies with their order, so epochs may differ in their number of batches.

        Args:
            epochs: Number of epochs, counted from epoch 0.
            accumulate: Batches of a step; the last step of an epoch may have fewer.
        """
        return sum(-(-len(self._all_batches(epoch)) // accumulate) for epoch in range(epochs))

    def _all_batches(self, epoch: int) -> list[list[list[int]]]:
        """For each batch, the utterances of each rank."""
        order = list(self._dialogues)
        # random.Random hashes a string seed with SHA-512: the same order on every platform.
        generator = random.Random(f"dialogues {self.seed} {epoch}")
        if self.shuffle:
            generator.shuffle(order)
        most, most_tokens = self.batch_size * self.world_size, self.batch_tokens * self.world_size
        batches: list[list[list[int]]] = []  # of dialogues, or of one chunk of a long dialogue
        current: list[list[int]] = []
        size = tokens = 0
        for dialogue in order:
            more = self._tokens.get(dialogue[0], 0) if most_tokens else 0
            if current and (size + len(dialogue) > most or tokens + more > most_tokens > 0):
                batches.append(current)
                current, size, tokens = [], 0, 0
            if len(dialogue) > most:
                batches.extend([chunk] for chunk in _chunks(dialogue, most))
            else:
                current.append(dialogue)
                size += len(dialogue)
                tokens += more
        if current:
            batches.append(current)
        batches = _filled(batches, self.world_size, most)
        if self.shuffle:
            # Otherwise the short last batch would always end the epoch, and the chunks of one long
            # dialogue would follow each other.
            generator.shuffle(batches)
        return [_shared(batch, self.world_size, self.batch_size) for batch in batches]


class UtteranceBatchSampler:
    """Single utterances in random order, as the authors' code draws them.

    The order follows from (seed, epoch). A batch of `batch_size` x `world_size` utterances is
    shared out to the ranks in near-equal runs, so that any number of ranks sees the same batches.

    Args:
        count: Number of utterances.
        batch_size: Utterances of a batch, per rank; the last of an epoch may have fewer.
        seed: With the epoch, decides the order.
        rank: Which part this process takes.
        world_size: Number of processes.

    Raises:
        UserError: `batch_size` is below 1 or there is nothing to sample.
    """

    def __init__(
        self, count: int, *, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        _check_ranks(batch_size, rank, world_size)
        if count < 1:
            raise UserError("no utterance to sample from")
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def batches(self, epoch: int) -> list[list[int]]:
        """As `DialogueBatchSampler.batches`."""
        return [shared[self.rank] for shared in self._all_batches(epoch)]

    def sizes(self, epoch: int) -> list[int]:
        """As `DialogueBatchSampler.sizes`."""
        return [sum(map(len, shared)) for shared in self._all_batches(epoch)]

    def total_steps(self, epochs: int, accumulate: int = 1) -> int:
        """As `DialogueBatchSampler.total_steps`."""
        return epochs * -(-len(self._all_batches(0)) // accumulate)

    def _all_batches(self, epoch: int) -> list[list[list[int]]]:
        order = list(range(self.count))
        random.Random(f"utterances {self.seed} {epoch}").shuffle(order)
        most = self.batch_size * self.world_size
        batches = [[order[start : start + most]] for start in range(0, len(order), most)]
        batches = _filled(batches, self.world_size, most)
        return [_shared(batch, self.world_size, self.batch_size) for batch in batches]


def _check_ranks(batch_size: int, rank: int, world_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not in 0..{world_size - 1}")


def _filled(batches: list[list[list[int]]], world_size: int, most: int) -> list[list[list[int]]]:
    """Bring every batch to an utterance per rank at least, by joining it with its neighbour."""

    def size(batch: list[list[int]]) -> int:
        return sum(map(len, batch))

    result: list[list[list[int]]] = []
    for batch in batches:
        if result and min(size(batch), size(result[-1])) < world_size:
            joint = [*result[-1], *batch]
            if size(joint) <= most:
                result[-1] = joint
                continue
            if size(joint) >= 2 * world_size:
                flat = [index for dialogue in joint for index in dialogue]
                result[-1:] = [[chunk] for chunk in _chunks(flat, most)]
                continue
        result.append(batch)
    every = [index for batch in result for dialogue in batch for index in dialogue]
    for batch in result:  # too few utterances for the ranks: some come again
        missing = world_size - size(batch)
        if missing > 0:
            batch.append([every[place % len(every)] for place in range(missing)])
    return result


def _shared(batch: list[list[int]], world_size: int, most: int) -> list[list[int]]:
    """Share a batch out to the ranks, each of which gets 1 to `most` utterances."""
    if world_size == 1:
        return [[index for dialogue in batch for index in dialogue]]
    ranks: list[list[int]] = [[] for _ in range(world_size)]
    for dialogue in sorted(batch, key=len, reverse=True):  # the longest first, to the emptiest rank
        min(ranks, key=len).extend(dialogue)
    if all(1 <= len(part) <= most for part in ranks):
        return ranks
    flat = [index for dialogue in batch for index in dialogue]
    bounds = [len(flat) * rank // world_size for rank in range(world_size + 1)]
    return [flat[a:b] for a, b in pairwise(bounds)]


def _chunks(dialogue: list[int], size: int) -> list[list[int]]:
    """Fewest near-equal consecutive parts of at most `size`."""
    count = -(-len(dialogue) // size)
    bounds = [len(dialogue) * part // count for part in range(count + 1)]
    return [dialogue[a:b] for a, b in pairwise(bounds)]
