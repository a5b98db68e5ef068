"""Files that say which videos, or shows, are in which split."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from univa.errors import UserError
from univa.utils.text_files import at, read_json, read_text

__all__ = ["read_folds", "read_list"]

_NAMES = {
    "train": ("train", "standard_train_fold"),
    "valid": ("valid", "val", "dev", "standard_valid_fold"),
    "test": ("test", "standard_test_fold"),
}


def read_folds(path: Path) -> dict[str, str]:
    """Read which video is in which split.

    Args:
        path: JSON {"train": [video, ...], "valid": [...], "test": [...]}; or the Python file of
            the SDK with the lists standard_train_fold and so on, which is not executed.

    Returns:
        Video -> "train", "valid" or "test".

    Raises:
        UserError: the file is missing, lacks a split, or has a video in two.
    """
    mend = 'give JSON {"train": [...], "valid": [...], "test": [...]} or cmu_mosei_std_folds.py'
    values = _assignments(path, mend) if path.suffix == ".py" else read_json(path, mend=mend).values
    found: dict[str, str] = {}
    for split, names in _NAMES.items():
        videos = next((values[name] for name in names if name in values), None)
        if not isinstance(videos, list) or not all(isinstance(item, str) for item in videos):
            raise UserError(f"{path}: no list of videos {' or '.join(names)}; {mend}")
        for video in videos:
            if found.setdefault(video, split) != split:
                raise UserError(
                    f"{path}: video {video!r} is in {found[video]} and in {split}; keep it in one"
                )
    return found


def _assignments(path: Path, mend: str) -> dict[str, Any]:
    """Lists of literals that a Python file assigns to names."""
    try:
        tree = ast.parse(read_text(path, mend=mend))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f"{path}: not Python ({error}); {mend}") from None
    values: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                values[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue  # no literal, so no list of names
    return values


def read_list(path: Path, *, mend: str) -> list[str]:
    """Read names, one per line.

    Raises:
        UserError: the file is missing or empty, or a name comes twice.
    """
    names: list[str] = []
    for row, line in enumerate(read_text(path, mend=mend).split("\n"), 1):
        name = line.strip()
        if name in names:
            raise UserError(f"{at(path, row)}: {name!r} comes twice; keep it once")
        if name:
            names.append(name)
    if not names:
        raise UserError(f"{path}: no names in it; {mend}")
    return names
