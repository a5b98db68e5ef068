"""The loss of the batches of two processes, gathered through gloo (NCCL needs a GPU each).

Two processes of one thread each live as long as the workload. Every rank makes its own fresh rows;
a round's figure is the slower rank's time for the loss of all rows and its gradient.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import warnings
from collections.abc import Callable
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

import univa_kernels
from benchmarks import truth
from benchmarks.contenders import (
    BACKENDS,
    OUR_NAMES,
    OURS,
    PLAIN,
    RADIUS,
    SUPCON,
    TEMPERATURE,
    backend_absent,
    inputs,
    metric_loss,
    missing,
    vectorised,
)
from benchmarks.results import BOTH
from benchmarks.timing import Entry, Workload
from univa_kernels.distributed import va_supcon_loss_distributed

WORLD = 2


def _gathered(rows: Tensor, points: Tensor) -> Tensor:
    """Gather everything everywhere, then the N x N loss: torch's own differentiable gather."""
    from torch.distributed.nn.functional import all_gather

    places = [torch.empty_like(points) for _ in range(WORLD)]
    dist.all_gather(places, points)
    every = torch.cat(all_gather(rows))
    return vectorised(every, torch.cat(places))


def _ours(backend: str) -> Callable[[Tensor, Tensor], Tensor]:
    def loss(rows: Tensor, points: Tensor) -> Tensor:
        with univa_kernels.use_backend(backend):
            return va_supcon_loss_distributed(
                rows, points, temperature=TEMPERATURE, radius=RADIUS, sizes=[len(rows)] * WORLD
            )

    return loss


def _metric_learning(rows: Tensor, classes: Tensor) -> Tensor:
    """pytorch-metric-learning's wrapper: copies of the other rank's rows, all anchors on each."""
    value: Tensor = _wrapped()(rows, classes)
    return value


@cache
def _wrapped() -> Any:
    from pytorch_metric_learning.utils.distributed import DistributedLossWrapper

    return DistributedLossWrapper(metric_loss("SupConLoss"))


def _losses() -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    ours = {f"{OURS} ({name})": _ours(name) for name in BACKENDS}
    return {PLAIN: _gathered, SUPCON: _metric_learning} | ours


def _rank(rank: int, port: int, pipe: Connection) -> None:
    """Serve (name, rows, dim, round): seconds, and in round 0 loss, gradient and inputs."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "torch.distributed.nn", FutureWarning)  # what users call yet
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD
    )
    losses = _losses()
    while (order := pipe.recv()) is not None:
        name, size, dim, number = order
        try:
            rows, points = inputs(size, dim, WORLD * number + rank, by_class=name == SUPCON)
            dist.barrier()
            begin = time.perf_counter()
            loss = losses[name](rows, points)
            loss.backward()
            seconds = time.perf_counter() - begin
            tensors = (loss, rows.grad, rows, points) if number == 0 else ()  # to be checked
            pipe.send((seconds, *(tensor.detach().numpy() for tensor in tensors)))
        except Exception as error:
            pipe.send(error)
    dist.destroy_process_group()


class Pair:
    """The two processes, started when they are first asked."""

    def __init__(self) -> None:
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def _start(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        context = multiprocessing.get_context("spawn")
        for rank in range(WORLD):
            own, theirs = context.Pipe()
            process = context.Process(target=_rank, args=(rank, port, theirs), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._pipes.append(own)

    def ask(self, name: str, size: int, dim: int, number: int, seconds: float = 120.0) -> list[Any]:
        """Both ranks' answers.

        Raises:
            RuntimeError: a rank failed or did not answer in time.
        """
        if not self._pipes:
            self._start()
        for pipe in self._pipes:
            pipe.send((name, size, dim, number))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(seconds):
                self.close()
                raise RuntimeError(f"rank {rank} did not answer in {seconds:.0f} s")
            answers.append(pipe.recv())
        for answer in answers:
            if isinstance(answer, Exception):
                raise RuntimeError(str(answer))
        return answers

    def close(self) -> None:
        """Let both processes end."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except OSError:
                continue
        for process in self._processes:
            process.join(5)
            if process.is_alive():
                process.kill()
        self._processes, self._pipes = [], []


def check(pair: Pair, name: str, size: int = 60, dim: int = 32) -> None:
    """Hold loss and gradients of both ranks against one process with all rows, in float64.

    Each rank's gradient is that of the sum over ranks, twice that of the one process; so is
    pytorch-metric-learning's loss, which scales all rows to unit length itself.

    Raises:
        WrongResult: the contender is wrong.
    """
    answers = [[torch.as_tensor(part) for part in each] for each in pair.ask(name, size, dim, 0)]
    rows = torch.cat([answer[3] for answer in answers]).double().requires_grad_()
    points = torch.cat([answer[4] for answer in answers])
    if name == SUPCON:
        positive = truth.positives_by_class(points)
        value = truth.contrastive(F.normalize(rows), positive, TEMPERATURE)
    else:
        value = truth.contrastive(rows, truth.positives_by_radius(points, RADIUS), TEMPERATURE)
    (grad,) = torch.autograd.grad(value, rows)
    found = torch.cat([answer[2] for answer in answers])
    for answer in answers:
        loss = answer[1] / WORLD if name == SUPCON else answer[1]
        truth.compare((loss, found), (value, WORLD * grad))


def workload(size: int, dim: int, *, budget: float, rounds: int = 60) -> Workload:
    """N rows on each of two ranks of this CPU."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    pair = Pair()

    def entries() -> list[Entry]:
        def entry(name: str, absent: str | None) -> Entry:
            def measure(number: int) -> dict[str, float]:
                return {BOTH: max(answer[0] for answer in pair.ask(name, size, dim, number))}

            return Entry(name=name, measure=measure, check=lambda: check(pair, name), absent=absent)

        own = [entry(f"{OURS} ({name})", backend_absent(name, "cpu")) for name in BACKENDS]
        library = missing("pytorch_metric_learning", "pytorch-metric-learning")
        return [entry(PLAIN, None), entry(SUPCON, library), *own]

    return Workload(
        name=f"two processes N={WORLD}x{size} D={dim}",
        kind="distributed",
        facts={"size": WORLD * size, "dim": dim, "dtype": "float32", "backend": "gloo"},
        names=(PLAIN, SUPCON, *OUR_NAMES),
        entries=entries,
        budget=budget,
        rounds=rounds,
        close=pair.close,
    )
