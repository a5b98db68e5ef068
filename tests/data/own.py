"""Writes a small corpus of one's own: a table, feature folders, scores."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

SIZES = {"audio": 6, "vision": 5}
EMOTIONS = ("joy", "sad", "calm")
Record = dict[str, Any]


def records(dialogues: dict[str, list[int]] | None = None, *, seed: int = 0) -> list[Record]:
    """Utterances; `dialogues` has the numbers of utterances."""
    rng = np.random.default_rng(seed)
    found = []
    for split, sizes in (dialogues or {"train": [3, 2, 4], "valid": [2, 1], "test": [2]}).items():
        for number, size in enumerate(sizes):
            for place in range(size):
                present = rng.integers(0, 2, len(EMOTIONS))
                present[0] |= split == "train" and place == 0
                found.append(
                    {
                        "id": f"{split}{number}_{place}",
                        "dialogue": f"{split}{number}",
                        "split": split,
                        "text": " ".join(rng.choice(["good", "bad", "a, day", "film"], 2)),
                        "labels": ";".join(
                            name for name, yes in zip(EMOTIONS, present, strict=True) if yes
                        ),
                    }
                )
    return found


def write_csv(path: Path, rows: list[Record]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[Record]) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def write_features(
    folder: Path, ids: list[str], size: int, *, seed: int = 0, per_file: int = 3
) -> dict[str, np.ndarray]:
    """A feature folder of random sequences; what was written."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    written, lines = {}, [{"kind": "features", "version": 1, "size": size, "count": len(ids)}]
    for start in range(0, len(ids), per_file):
        file = f"{start:05}.safetensors"
        part = {
            name: rng.standard_normal((int(rng.integers(1, 5)), size)).astype(np.float32)
            for name in ids[start : start + per_file]
        }
        save_file(part, folder / file)
        written |= part
        lines += [
            {"id": name, "file": file, "key": name, "steps": len(values), "size": size}
            for name, values in part.items()
        ]
    write_jsonl(folder / "index.jsonl", lines)
    return written


def write_scores(path: Path, ids: list[str], *, seed: int = 0) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(seed)
    points = {name: tuple(rng.uniform(-1, 1, 2).tolist()) for name in ids}
    write_csv(path, [{"id": n, "valence": v, "arousal": a} for n, (v, a) in points.items()])
    return points


def write_lexicon(path: Path, points: dict[str, tuple[float, float]] | None = None) -> Path:
    points = points or {"joy": (0.98, 0.8), "sad": (0.2, 0.3), "calm": (0.9, 0.1)}
    lines = (f"{word}\t{v}\t{a}\t0.5\n" for word, (v, a) in points.items())
    path.write_text("Word\tValence\tArousal\tDominance\n" + "".join(lines), encoding="utf-8")
    return path
