"""The model card of a fitted scorer."""

from __future__ import annotations

import json
from typing import Any

from univa.batch import Modality
from univa.va.regressor import DIMENSIONS

__all__ = ["model_card", "report_lines"]

_WHAT: dict[Modality, tuple[str, str, str]] = {
    "text": ("a text in whatever language the encoder knows", "texts", "tokens"),
    "audio": ("a stretch of speech", "univa.media.decode.Clip(path=...) objects", "steps of 20 ms"),
    "vision": (
        "a face or a scene in pictures",
        "univa.media.decode.Clip(path=...) objects",
        "frames",
    ),
}


def _interval(figures: dict[str, Any], name: str, coefficient: str, digits: int) -> str:
    low, high = figures["intervals"][name][coefficient]
    return f"{low:.{digits}f} to {high:.{digits}f}"


def report_lines(figures: dict[str, Any]) -> list[str]:
    """The test figures with their 95 % intervals, one line per dimension, for the terminal."""
    return [
        f"test {name}: Pearson r {value['pearson']:.4f} "
        f"({_interval(figures, name, 'pearson', 3)}), CCC {value['ccc']:.4f} "
        f"({_interval(figures, name, 'ccc', 3)})"
        for name, value in figures["test"].items()
    ]


def model_card(modality: Modality, data: str, encoder: str, figures: dict[str, Any]) -> str:
    """The README.md of a saved scorer, in Markdown.

    Args:
        modality: what it scores.
        data: name of the table.
        encoder: name of the encoder.
        figures: what `fit` returned.
    """
    rows, test, settings = figures["rows"], figures["test"], figures["settings"]
    what, items, states = _WHAT[modality]
    table = "\n".join(
        f"| {name} | {test[name]['pearson']:.3f} | {_interval(figures, name, 'pearson', 3)} "
        f"| {test[name]['ccc']:.3f} | {_interval(figures, name, 'ccc', 3)} |"
        for name in DIMENSIONS
    )
    trained = "fine-tuned" if settings["encoder_learning_rate"] else "frozen"
    return f"""# Valence-arousal scorer: {modality}

Gives valence and arousal of {what}, each in [-1, 1]. Written by `univa va fit-{modality}`; load it
with `univa.va.regressor.VARegressor.from_pretrained(folder)`, whose `score` takes a list of
{items}, or use it by `univa va score --modality {modality} --model FOLDER`.

Encoder `{encoder}`, {trained}; {settings["pooling"]} over {states}, one linear layer. Fitted on
`{data}`: {rows["train"]} training rows, best of {len(figures["history"])} epochs chosen on
{rows["dev"]} dev rows by Pearson's r, reported once on {rows["test"]} test rows, with 95 %
bootstrap intervals:

| | Pearson r | | CCC | |
|---|---|---|---|---|
{table}

The licences of the encoder and of the table apply to these weights. Every setting and every
epoch's figures are in `metrics.json`.

```json
{json.dumps(settings, indent=2)}
```
"""
