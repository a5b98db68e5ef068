"""Ahead-of-time compilation of the kernels, for any architecture and without a GPU."""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from univa_kernels._triton.boxes import coordinate_boxes
from univa_kernels._triton.configs import Config
from univa_kernels._triton.forward import partial_states
from univa_kernels._triton.gradient_block import gradient_of_products
from univa_kernels._triton.gradient_rows import gradient_of_rows
from univa_kernels._triton.merge import merge_states

_KERNELS = {
    "forward": partial_states,
    "gradient_rows": gradient_of_rows,
    "gradient_block": gradient_of_products,
    "merge": merge_states,
    "boxes": coordinate_boxes,
}
_EMBEDDINGS = {"anchors", "contrast", "embeddings", "others", "block", "gradient"}
_GROUPS = {"anchor_groups", "contrast_groups", "row_groups", "column_groups"}
_COORDINATES = {
    f"{side}_{what}"
    for side in ("anchor", "contrast", "row", "column")
    for what in ("coordinates", "boxes")
} | {"coordinates", "boxes"}
_INTEGERS = {
    "rows",
    "columns",
    "first_row",
    "first_column",
    "first_tile",
    "first_column_tile",
    "tiles_per_chunk",
    "tiles_per_split",
    "row_tiles",
    "chunks",
    "panel_rows",
    "block_rows",
    "block_columns",
    "self_offset",
}
_FLOATS = {"inverse_temperature", "gaussian_factor", "self_weight", "log_self_weight"}
# Compile-time arguments of calls with options. Boxes tell nothing where positives may be far away.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned, excluded, wide": {
        "LEARNED": True,
        "KEEP_SELF": True,
        "NORMALIZED": True,
        "GROUPS": 2,
        "WIDE": True,
    },
    "gaussian": {"GAUSSIAN": True, "BOXES": False, "NORMALIZED": True},
    "groups": {"GROUPS": 1, "BOXES": False, "KEEP_SELF": True},
    "gaussian, learned, groups, wide": {
        "GAUSSIAN": True,
        "LEARNED": True,
        "GROUPS": 1,
        "WIDE": True,
        "BOXES": False,
    },
}
_ELEMENT = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}


def compiled(
    kernel: str,
    dtype: torch.dtype,
    depth: int,
    config: Config,
    arch: int,
    symmetric: bool,
    **flags: Any,
) -> Any:
    """A kernel as the default call has it: two coordinates, radius, no groups, fixed temperature.

    Args:
        kernel: "forward", "gradient_rows", "gradient_block", "merge" or "boxes".
        dtype: of the embeddings.
        depth: D.
        config: tile sizes.
        arch: 80, 90 or 100.
        symmetric: whether a set is contrasted with itself.
        flags: compile-time arguments that differ.

    Returns:
        Triton's compiled kernel: `asm` with "ptx" and "cubin", `metadata` with shared memory.
    """
    function: Any = _KERNELS[kernel]
    constants: dict[str, Any] = {
        "D": depth,
        "P": 2,
        "SYMMETRIC": symmetric,
        "MIRRORED": symmetric,
        "ROWS_CONTRAST": True,
        "COLUMNS_CONTRAST": symmetric,
        "LEARNED": False,
        "NORMALIZED": False,
        "WIDE": False,
        "GAUSSIAN": False,
        "GROUPS": 0,
        "HAS_SELF": symmetric,
        "KEEP_SELF": False,
        "BOXES": True,
        "RESIDENT": config.block_d >= depth,
        "PARTS": config.parts,
        "PRECISION": "ieee",
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCK_D": config.block_d,
        "GROUP": 8,
        "FIRST": False,
        "TILE": config.block_m,
        "SQUARE": max(config.block_m, config.block_n),
        "SLOTS": 64 if symmetric else 1,
        "CHUNKS": 64,
        "BLOCK": config.block_m if kernel == "boxes" else 32,
        **flags,
    }
    wide = constants["WIDE"]
    signature: dict[str, str] = {}
    for name in function.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in _EMBEDDINGS:
            # What is scaled later is left in float32.
            scaled = constants["NORMALIZED"] or dtype == torch.float16
            exact = name == "gradient" and scaled
            signature[name] = "*fp32" if exact else "*" + _ELEMENT[dtype]
        elif name in _GROUPS:
            signature[name] = "*i64"
        elif name in _COORDINATES:
            signature[name] = "*fp64" if wide else "*fp32"
        elif name == "threshold":
            signature[name] = "i64"
        elif name in _INTEGERS:
            signature[name] = "i32"
        elif name in _FLOATS:
            signature[name] = "fp32"
        else:
            signature[name] = "*fp32"
    places = {name: place for place, name in enumerate(function.arg_names)}
    # torch's allocations are aligned, as the launcher would find out.
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for name, place in places.items()
        if signature[name].startswith("*")
    }
    source = ASTSource(
        function,
        signature,
        {(places[name],): value for name, value in constants.items() if name in places},
        aligned,
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": config.warps, "num_stages": config.stages},
    )
