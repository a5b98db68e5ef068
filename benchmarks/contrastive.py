"""The contrastive loss of a set against itself, beside one bare matrix product of the same round.

Also what bounds every figure: the bare products, this library's tile products without the loss,
and the copy bandwidth.
"""

from __future__ import annotations

import os
from functools import cache, partial

import torch
from torch import Tensor

from benchmarks import contenders as peers
from benchmarks.contenders import Contender, contenders, inputs
from benchmarks.results import BOTH, FORWARD
from benchmarks.tiles import backward_products, forward_products
from benchmarks.timing import Clock, Entry, Workload

BARE, BARE_OUT, TILES, COPY = (
    "bare product",
    "bare product, out=",
    "our tile products alone",
    "copy of 256 MiB",
)
COPY_BYTES = 256 << 20
_BLOCK = 4096
_LARGEST_RESULT = 1 << 30  # bytes; a larger product is made in blocks of rows

# What a contender took at each size: it tells what it will take at a larger one.
_taken: dict[str, list[tuple[int, int, float]]] = {}


def memory_cap(device: str) -> float:
    """Bytes that a contender may be predicted to need."""
    if device == "cuda":
        return 0.8 * torch.cuda.get_device_properties(0).total_memory
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(8 * peers.GIB, 0.4 * total)


def predicted_seconds(name: str, size: int, dim: int) -> float | None:
    """From the nearest smaller size that was measured: time goes with N squared and with D."""
    known = [
        seconds * (size / n) ** 2 * max(1.0, dim / d)
        for n, d, seconds in _taken.get(name, [])
        if n < size
    ]
    return min(known) if known else None


def too_large(contender: Contender, size: int, device: str) -> str | None:
    """Why so many rows are too many for a contender, or None."""
    needs, cap = contender.bytes(size), memory_cap(device)
    if needs <= cap:
        return None
    return f"would need about {needs / peers.GIB:.0f} GiB; cap {cap / peers.GIB:.0f} GiB"


def absent_here(contender: Contender, size: int, dim: int, device: str) -> str | None:
    """Why a contender is left out at this size, or None."""
    if contender.absent is not None:
        return contender.absent
    if contender.dims is not None and dim not in contender.dims:
        measured = " and ".join(map(str, contender.dims))
        return f"measured at D = {measured} only: {contender.why_dims}"
    return too_large(contender, size, device)


def bare_product(rows: Tensor) -> None:
    """X X^T as anyone calls it; in blocks of rows where the result would take over 1 GiB."""
    if rows.element_size() * len(rows) ** 2 <= _LARGEST_RESULT:
        torch.mm(rows, rows.T)
        return
    there = rows.new_empty(_BLOCK, len(rows))
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        torch.mm(part, rows.T, out=there[: len(part)])


def _products(rows: Tensor, clock: Clock) -> dict[str, float]:
    clock.ready()
    begin = clock.mark()
    forward_products(rows)
    middle = clock.mark()
    backward_products(rows)
    end = clock.mark()
    return {BOTH: clock.between(begin, end), FORWARD: clock.between(begin, middle)}


def yardsticks(size: int, dim: int, device: str, dtype: torch.dtype, *, tiles: bool) -> list[Entry]:
    """Bare products of the round's rows."""
    clock = Clock(device)

    def rows(number: int) -> Tensor:
        return inputs(size, dim, number, device=device, dtype=dtype)[0].detach()

    def bare(number: int) -> dict[str, float]:
        there = rows(number)
        return clock.single(lambda: bare_product(there))

    def out(number: int) -> dict[str, float]:
        there, result = rows(number), torch.zeros(size, size, device=device, dtype=dtype)
        return clock.single(lambda: torch.mm(there, there.T, out=result))

    # A full product is seconds at the largest sizes, and no warmer than a small one.
    small = size if size <= 2048 or device == "cuda" else 2048
    warm = inputs(small, dim, 0, device=device, dtype=dtype)[0].detach()
    every = [Entry(name=BARE, measure=bare, warm=lambda: bare_product(warm))]
    if tiles:
        every.append(Entry(name=BARE_OUT, measure=out))
        every.append(Entry(name=TILES, measure=lambda number: _products(rows(number), clock)))
    return every


@cache
def _checked(contender: Contender, dim: int, device: str, dtype: torch.dtype) -> None:
    """Once for each D; who is wrong is asked again, and wrong again."""
    peers.check(contender, dim=dim, device=device, dtype=dtype)


def loss_entry(contender: Contender, size: int, dim: int, device: str, dtype: torch.dtype) -> Entry:
    """A contender's turn."""
    clock = Clock(device)

    def measure(number: int, rows: int = size) -> dict[str, float]:
        embeddings, points = inputs(
            rows, dim, number, by_class=contender.by_class, device=device, dtype=dtype
        )
        figures = clock.phases(lambda: contender.loss(embeddings, points))
        if number or rows < size:
            _taken.setdefault(contender.name, []).append((rows, dim, figures[BOTH]))
        return figures

    def warm() -> None:
        # Compilers compile for a size, and a GPU's allocator keeps blocks of it; others are warm
        # after a smaller call, which costs less and tells what this size will take.
        small = size <= 2048 or contender.name == peers.COMPILED or device == "cuda"
        measure(0, size if small else 2048)
        if not small:
            measure(0, 2048)  # the first one loads and allocates

    return Entry(
        name=contender.name,
        measure=measure,
        check=lambda: _checked(contender, dim, device, dtype),
        warm=warm,
        absent=absent_here(contender, size, dim, device),
        predicted=partial(predicted_seconds, contender.name, size, dim),
    )


def workload(
    size: int,
    dim: int,
    device: str,
    *,
    budget: float,
    cap: float | None = None,
    rounds: int = 40,
    tiles: bool = False,
) -> Workload:
    """A set of N rows against itself; bfloat16 on a GPU, float32 on a CPU."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32

    def entries() -> list[Entry]:
        every = contenders(device).values()
        own = [loss_entry(contender, size, dim, device, dtype) for contender in every]
        return yardsticks(size, dim, device, dtype, tiles=tiles) + own

    return Workload(
        name=f"contrastive N={size} D={dim}",
        kind="contrastive",
        facts={"size": size, "dim": dim, "dtype": str(dtype).removeprefix("torch.")},
        names=(BARE, *((BARE_OUT, TILES) if tiles else ()), *peers.NAMES),
        entries=entries,
        budget=budget,
        cap=budget / 6 if cap is None else cap,
        rounds=rounds,
    )


def speed_of_light(device: str, *, budget: float) -> Workload:
    """Copy bandwidth: a tensor of 256 MiB into another, read once and written once."""
    clock = Clock(device)

    def entries() -> list[Entry]:
        source = torch.rand(COPY_BYTES // 4, device=device)
        target = torch.empty_like(source)
        return [Entry(name=COPY, measure=lambda _: clock.single(lambda: target.copy_(source)))]

    return Workload(
        name="copy bandwidth",
        kind="copy",
        facts={"bytes_moved": 2 * COPY_BYTES},
        names=(COPY,),
        entries=entries,
        budget=budget,
        rounds=20,
    )
