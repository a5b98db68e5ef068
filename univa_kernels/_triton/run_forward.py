"""Forward: panels of row tiles, each a launch of partial states and a launch that merges them."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from univa_kernels._triton.forward import partial_states
from univa_kernels._triton.merge import merge_states
from univa_kernels._triton.pairs import INTERPRETED
from univa_kernels._triton.problem import Problem, config_for

STATS_ROWS = 4
"""Rows of the statistics: log Z, n, mean positive logit, gap (NaN unless temperatures learn)."""

_PROGRAMS = 1024  # of a launch: several for each multiprocessor, so that they even out
_CHUNKS = 64
_MERGED = 32  # rows that one program merges
# Row tiles of a panel: as many as leave their columns' states in this many bytes, 16 to 64.
_SLOT_BYTES = 256 << 20


def slots(columns: int, sets: int) -> int:
    """How many row tiles share a launch: the partial states that a column has at a time."""
    if INTERPRETED:
        return 2
    affordable = _SLOT_BYTES // (16 * max(1, columns * sets))
    return 64 if affordable >= 64 else 32 if affordable >= 32 else 16


def forward(problem: Problem) -> tuple[Tensor, Tensor]:
    """Losses [S, N] and statistics [S, 4, N], float32."""
    sets, rows, columns, depth = problem.shape
    rows_of = problem.anchors
    losses = rows_of.new_empty((sets, rows), dtype=torch.float32)
    stats = rows_of.new_empty((sets, STATS_ROWS, rows), dtype=torch.float32)
    if rows == 0 or sets == 0:
        return losses, stats
    config = config_for("forward", problem)
    square = max(config.block_m, config.block_n)
    fields = 5 if problem.temperature is not None else 4
    row_tiles, column_tiles = (
        triton.cdiv(rows, config.block_m),
        triton.cdiv(columns, config.block_n),
    )
    panel = min(slots(columns, sets), row_tiles) if problem.symmetric else row_tiles
    panel = triton.cdiv(panel * config.block_m, square) * square // config.block_m
    flags = problem.flags(config)
    boxes = problem.boxes(config)
    none = losses
    column_states, running = none, none
    if problem.symmetric:
        column_states = losses.new_empty((sets, panel, fields, rows))
        running = losses.new_empty((sets, fields, rows))
    temperature = none if problem.temperature is None else problem.temperature
    for first in range(0, row_tiles, panel):
        tiles = min(panel, row_tiles - first)
        first_row = first * config.block_m
        first_column = first_row // square * square // config.block_n if problem.symmetric else 0
        span = column_tiles - first_column
        chunks = max(1, min(triton.cdiv(_PROGRAMS, tiles * sets), _CHUNKS, span))
        per_chunk = triton.cdiv(span, chunks)
        row_states = losses.new_empty((sets, chunks, fields, tiles * config.block_m))
        problem.launcher(partial_states)[(tiles, chunks, sets)](
            *problem.pairs(),
            *boxes,
            temperature,
            row_states,
            column_states,
            rows,
            columns,
            first,
            first_column,
            per_chunk,
            *problem.numbers(),
            SYMMETRIC=problem.symmetric,
            PARTS=config.parts,
            RESIDENT=config.block_d >= depth,
            **flags,
        )
        last = rows - first_row if problem.symmetric else rows
        problem.launcher(merge_states)[(triton.cdiv(last, min(_MERGED, config.block_m)), sets)](
            row_states,
            column_states,
            running,
            losses,
            stats,
            rows,
            first_row,
            first,
            tiles,
            chunks,
            tiles * config.block_m,
            SYMMETRIC=problem.symmetric,
            LEARNED=problem.temperature is not None,
            FIRST=first == 0,
            TILE=config.block_m,
            SQUARE=square,
            SLOTS=triton.next_power_of_2(panel) if problem.symmetric else 1,
            CHUNKS=triton.next_power_of_2(chunks),
            BLOCK=min(_MERGED, config.block_m),
            num_warps=4,
        )
    return losses, stats
