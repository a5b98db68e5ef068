"""Peak memory of one forward and backward above what was held before it, the same for all.

    python -m benchmarks.memory "univa_kernels (cpu)" 16384 128      # MiB; Linux

On a CPU every contender has a process of its own, whose highest resident set counts; on a GPU the
allocator's peak counts. The processes are forks of one that has imported everything and called
nothing, which saves seconds each.
"""

from __future__ import annotations

import multiprocessing
import sys
from functools import cache, partial
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path

import torch

from benchmarks.contenders import COMPILED, NAMES, Contender, contenders, inputs
from benchmarks.contrastive import absent_here, predicted_seconds
from benchmarks.results import PEAK
from benchmarks.timing import Entry, Workload

MIB = 1 << 20
_START = 15.0  # seconds that a process takes to begin and a compiler to compile, generously


@cache
def _server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    # What is not installed is passed over.
    context.set_forkserver_preload(["benchmarks.memory", "pytorch_metric_learning.losses"])
    return context


def peak_memory(name: str, size: int, dim: int, timeout: float | None = None) -> float:
    """MiB of resident memory that a contender needs above what there was before the call.

    Raises:
        RuntimeError: the process failed or took too long.
    """
    answers, theirs = _server().Pipe(duplex=False)
    process = _server().Process(target=_answer, args=(theirs, name, size, dim), daemon=True)
    process.start()
    theirs.close()
    try:
        if not answers.poll(timeout):
            raise RuntimeError(f"its process was stopped after {timeout:.0f} s")
        answer: float | str = answers.recv()
        process.join(5)  # what compilers began is put away
    except EOFError:
        process.join()
        raise RuntimeError(f"its process ended with status {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
        answers.close()
    if isinstance(answer, str):
        raise RuntimeError(answer)
    return answer


def _answer(pipe: Connection, name: str, size: int, dim: int) -> None:
    """MiB, or what went wrong, into the pipe."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    try:
        pipe.send(_measure(name, size, dim))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _resident(field: str) -> float:
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _measure(name: str, size: int, dim: int) -> float:
    contender = contenders()[name]
    small = inputs(size if name == COMPILED else 64, dim, 1, by_class=contender.by_class)
    contender.loss(*small).backward()  # libraries load, thread pools start, compilers compile
    del small
    rows, points = inputs(size, dim, 1, by_class=contender.by_class)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    contender.loss(rows, points).backward()
    return max(_resident("VmHWM") - before, 0.01)


def peak_on_gpu(contender: Contender, size: int, dim: int) -> float:
    """MiB that the allocator held at most above what it held before."""
    rows, points = inputs(
        size, dim, 1, by_class=contender.by_class, device="cuda", dtype=torch.bfloat16
    )
    contender.loss(rows, points).backward()  # compilers compile
    rows.grad = None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contender.loss(rows, points).backward()
    return max((torch.cuda.max_memory_allocated() - before) / MIB, 0.01)


def workload(size: int, dim: int, device: str, *, budget: float, cap: float = 12.0) -> Workload:
    """Peak memory of N rows; one process for each contender."""

    def measure(contender: Contender, _: int) -> dict[str, float]:
        if device == "cuda":
            return {PEAK: peak_on_gpu(contender, size, dim)}
        return {PEAK: peak_memory(contender.name, size, dim, timeout=_START + 3 * cap)}

    def entries() -> list[Entry]:
        every = []
        for name, contender in contenders(device).items():
            every.append(
                Entry(
                    name=name,
                    measure=partial(measure, contender),
                    warm=lambda: None,
                    absent=absent_here(contender, size, dim, device),
                    predicted=partial(predicted_seconds, name, size + 1, dim),
                    unit="MiB",
                )
            )
        return every

    return Workload(
        name=f"memory N={size} D={dim}",
        kind="memory",
        facts={"size": size, "dim": dim},
        names=NAMES,
        entries=entries,
        budget=budget,
        cap=cap,
        rounds=3,
    )


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    print(_measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
