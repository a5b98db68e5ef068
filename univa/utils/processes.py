"""The processes of a run: how many, on which device, and how they stop together."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor

from univa.errors import UserError, first_line

__all__ = ["Interrupted", "ProcessGroup", "StopRequest", "choose_device", "cpu_threads"]


class Interrupted(Exception):
    """Training stopped on SIGINT or SIGTERM, with its state saved.

    Attributes:
        signal: number of the signal; the exit status is 128 + signal.
        run: the run folder.
    """

    def __init__(self, signum: int, run: Path, step: int, total_steps: int) -> None:
        self.signal, self.run = signum, run
        super().__init__(
            f"stopped by {signal.Signals(signum).name} at step {step} of {total_steps}, state "
            f"saved; go on with: univa train --resume {run}"
        )


class StopRequest:
    """Remembers the first SIGINT or SIGTERM while it is entered; a second one acts at once."""

    class Stop(Exception):
        """Raised between two steps once a signal has come."""

        def __init__(self, signum: int) -> None:
            self.signal = signum
            super().__init__(signum)

    def __init__(self) -> None:
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """True once a signal has come."""
        return self._signal is not None

    def now(self) -> None:
        """Stop: this process got a signal, or another process of the run did."""
        raise self.Stop(self._signal if self._signal is not None else signal.SIGTERM)

    def check(self) -> None:
        """Stop if a signal has come to this process."""
        if self.requested:
            self.now()

    def __enter__(self) -> StopRequest:
        # Only the main thread can set handlers; elsewhere the owner of the process decides.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._handlers[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        self._restore()

    def _restore(self) -> None:
        while self._handlers:
            number, handler = self._handlers.popitem()
            signal.signal(number, handler)


def choose_device(name: Literal["auto", "cpu", "cuda"], index: int = 0) -> torch.device:
    """The device that an option names; "auto" is CUDA where there is a GPU.

    Args:
        name: the option.
        index: which GPU.

    Raises:
        UserError: "cuda" without such a GPU that torch can use, or fewer GPUs than torchrun has
            started processes on this machine; every one of them says so.
    """
    count = torch.cuda.device_count()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if name == "cpu" or (name == "auto" and count == 0):
        return torch.device("cpu")
    if count == 0:
        raise UserError("--device: torch sees no CUDA device; give --device cpu")
    if max(index + 1, processes) > count:
        raise UserError(
            f"--device: {max(index + 1, processes)} processes on this machine, but torch sees "
            f"{count} CUDA device{'s' * (count > 1)}; start {count} at most, or give --device cpu"
        )
    return torch.device("cuda", index)


@contextmanager
def cpu_threads(number: int) -> Iterator[None]:
    """Compute with so many CPU threads inside the block; 0 leaves the number as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class ProcessGroup:
    """The processes that torchrun started, or this process alone.

    Attributes:
        rank: 0 to size - 1.
        size: number of processes.
        device: where this process computes.
        timeout: seconds that a process waits for another before it ends with an error.
    """

    rank: int
    size: int
    device: torch.device
    timeout: float = 1800.0

    @classmethod
    def start(
        cls, device: Literal["auto", "cpu", "cuda"], *, timeout: float = 1800.0
    ) -> ProcessGroup:
        """Join the group that torchrun's environment variables describe, if they do.

        Args:
            device: where to compute.
            timeout: seconds that a process waits for another before it ends with an error.

        Raises:
            UserError: there is no such device, or another process has not come in time.
        """
        size = int(os.environ.get("WORLD_SIZE", "1"))
        chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
        if chosen.type == "cuda":
            torch.cuda.set_device(chosen)
        if size == 1:
            return cls(rank=0, size=1, device=chosen)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        # The CPU's backend too: counts of rows travel there, without waiting for a device.
        backends = backend if backend == "gloo" else f"cpu:gloo,cuda:{backend}"
        try:
            dist.init_process_group(backends, timeout=timedelta(seconds=timeout))
        except dist.DistError as error:
            raise UserError(
                f"not all {size} processes have come within {timeout:g} s (--timeout): "
                f"{first_line(error)}"
            ) from error
        return cls(rank=dist.get_rank(), size=size, device=chosen, timeout=timeout)

    @contextmanager
    def watched(self, run: Path) -> Iterator[None]:
        """Turn what the loss of a process or a worker raises inside the block into one line.

        Args:
            run: the run folder, to go on from.

        Raises:
            UserError: another process has died, or has not answered within the timeout.
        """
        try:
            yield
        except RuntimeError as error:
            if "DataLoader worker" in str(error):  # a type of its own it has not
                raise UserError(
                    f"a process of --data.workers was lost: {first_line(error)}; memory may have "
                    "run out: give fewer workers, and go on with: univa train --resume "
                    f"{run}"
                ) from error
            # gloo's errors have no type of their own, but the place in its sources.
            if self.size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            mend = (
                f"; go on with: torchrun --nproc-per-node {self.size} -m univa.train --resume {run}"
            )
            raise UserError(
                "another process of the run has died or has not answered for "
                f"{self.timeout:g} s (--timeout){mend if self.is_main else ''}"
            ) from error

    def stop(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """True in the one process that writes files and prints."""
        return self.rank == 0

    def mean(self, values: Tensor, flag: bool) -> tuple[list[float], bool]:
        """Average numbers over the processes, and tell whether a flag is up in any of them.

        Args:
            values: [K] float32 on `device`.
            flag: this process's flag.

        Returns:
            K numbers, the same in every process; True where any flag is up.
        """
        if self.size == 1:
            return values.tolist(), flag
        both = torch.cat([values, values.new_tensor([float(flag)])])
        dist.all_reduce(both)
        *sums, flags = both.tolist()
        return [value / self.size for value in sums], flags > 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Add up a CPU tensor over the processes; every one gets the sum."""
        if self.size > 1:
            on_device = tensor.to(self.device)
            dist.all_reduce(on_device)
            return on_device.to(tensor.device)
        return tensor

    def gather(self, item: Any) -> list[Any]:
        """Collect an item of every process, in the order of ranks, in every process."""
        if self.size == 1:
            return [item]
        items: list[Any] = [None] * self.size
        dist.all_gather_object(items, item)
        return items

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1:
            dist.barrier()
