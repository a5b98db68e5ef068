"""What is in a store, and what is wrong with it: `univa data check STORE`."""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from univa.data.store.read import MALFORMED, malformed, open_manifest, shards_of
from univa.errors import UserError
from univa.utils.console import progress as show_progress
from univa.utils.console import result

__all__ = ["Check", "Report", "check_store"]

_SPLITS = ("train", "valid", "test")
_PERCENTILES = (0, 5, 50, 95, 100)
_WIDTH = 80


@dataclass(kw_only=True)
class Report:
    """What a store holds.

    Attributes:
        splits: split -> utterances, dialogues, empty_labels, empty_texts.
        labels: label -> split -> utterances that have it.
        lengths: modality or "words" -> percentile -> steps.
        scores: whose -> split -> [lowest, mean, highest] of valence, then of arousal.
        errors: what is wrong, one line each.
        warnings: what may be wrong.
    """

    splits: dict[str, dict[str, int]] = field(default_factory=dict)
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    lengths: dict[str, dict[str, int]] = field(default_factory=dict)
    scores: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def check_store(store: Path, *, progress: bool = False) -> Report:
    """Count what is in a store and look for what is wrong with it.

    Args:
        store: the folder.
        progress: draw a progress bar.

    Raises:
        UserError: there is no store, or its manifest is damaged.
    """
    head, lines = open_manifest(store)
    try:
        return _report(store, head, lines, progress)
    except MALFORMED as error:
        raise malformed(store, error) from None


def _report(
    store: Path, head: dict[str, Any], lines: list[dict[str, Any]], progress: bool
) -> Report:
    utterances = [line for line in lines if line["kind"] == "utterance"]
    report = Report()
    names = head["labels"]
    by_split: dict[str, list[dict[str, Any]]] = {split: [] for split in _SPLITS}
    for line in utterances:
        by_split.setdefault(line["split"], []).append(line)
    report.labels = {name: {} for name in names}
    for split, members in by_split.items():
        report.splits[split] = {
            "utterances": len(members),
            "dialogues": len({line["dialogue"] for line in members}),
            "empty_labels": sum(not any(line["labels"]) for line in members),
            "empty_texts": sum(not line["text"].strip() for line in members),
        }
        for place, name in enumerate(names):
            report.labels[name][split] = sum(bool(line["labels"][place]) for line in members)
    report.lengths = _lengths(head, utterances)
    report.scores = _scores(by_split, report)
    _check_utterances(by_split, names, report)
    _check_shards(store, head, lines, report, progress)
    return report


def _lengths(head: dict[str, Any], utterances: list[dict[str, Any]]) -> dict[str, dict[str, int]]:
    values = {"words": [len(line["text"].split()) for line in utterances]}
    for modality in head["features"]:
        values[modality] = [line["features"][modality][2] for line in utterances]
    return {
        name: {
            str(p): int(v)
            for p, v in zip(
                _PERCENTILES,
                np.percentile(counts, _PERCENTILES, method="inverted_cdf"),
                strict=True,
            )
        }
        for name, counts in values.items()
        if counts
    }


def _scores(
    by_split: dict[str, list[dict[str, Any]]], report: Report
) -> dict[str, dict[str, list[list[float]]]]:
    """Ranges of the scores; those that are not finite are errors."""
    found: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    for split, members in by_split.items():
        for whose in sorted({name for line in members for name in line["va"]}):
            points = np.array([line["va"][whose] for line in members if whose in line["va"]], float)
            finite = np.isfinite(points).all(axis=1)
            missing = len(members) - len(points)
            if missing:
                report.errors.append(f"{split}: {missing} utterances have no scores of {whose}")
            if not finite.all():
                report.errors.append(f"{split}: {int((~finite).sum())} scores of {whose} are NaN")
            points = points[finite]
            if len(points):
                columns = zip(points.min(0), points.mean(0), points.max(0), strict=True)
                found[whose][split] = [[round(float(v), 4) for v in c] for c in columns]
                if np.abs(points).max() > 1:
                    report.warnings.append(f"{split}: scores of {whose} go beyond -1 to 1")
    return dict(found)


def _check_utterances(
    by_split: dict[str, list[dict[str, Any]]], names: list[str], report: Report
) -> None:
    lines = [line for members in by_split.values() for line in members]
    for name, count in Counter(line["id"] for line in lines).items():
        if count > 1:
            report.errors.append(f"utterance id {name!r} comes {count} times")
    places: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        places[line["dialogue"]].add(line["split"])
    for dialogue, splits in places.items():
        if len(splits) > 1:
            report.errors.append(f"dialogue {dialogue!r} is in {' and '.join(sorted(splits))}")
    for split in _SPLITS:
        if not by_split[split]:
            report.errors.append(f"split {split!r} is empty")
    for name in names:
        counts = report.labels[name]
        if by_split["train"] and counts["train"] in (0, len(by_split["train"])):
            every = "every" if counts["train"] else "no"
            report.warnings.append(f"{every} utterance of train has the label {name!r}")
    for split, counts in report.splits.items():
        if counts["empty_texts"]:
            report.warnings.append(f"{split}: {counts['empty_texts']} utterances have no text")


def _check_shards(
    store: Path, head: dict[str, Any], lines: list[dict[str, Any]], report: Report, progress: bool
) -> None:
    """Read every feature once, shard by shard."""
    shards = shards_of(store, head, lines)
    owners: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for line in lines:
        if line["kind"] == "utterance":
            for modality in head["features"]:
                shard, start, steps = line["features"][modality]
                owners[shard].append((start, start + steps, line["id"]))
    for name, shard in show_progress(shards.items(), "reading", unit="shard", enabled=progress):
        try:
            shard.check_size()
            for start, end, owner in sorted(owners[name]):
                if not 0 <= start < end <= shard.rows:
                    report.errors.append(f"{name}: no steps {start} to {end}, those of {owner!r}")
                elif not bool(shard.read(start, end - start).isfinite().all()):
                    report.errors.append(f"{name}: features of {owner!r} hold NaN or infinity")
        except UserError as error:
            report.errors.append(str(error))


def table(report: Report) -> str:
    """The report for people, in lines of at most 80 columns."""
    splits = list(report.splits)
    rows = [["", *splits]]
    rows += [
        [what.replace("_", " "), *(str(report.splits[s][what]) for s in splits)]
        for what in ("utterances", "dialogues", "empty_labels", "empty_texts")
    ]
    counts = [[name, *(str(by[s]) for s in splits)] for name, by in report.labels.items()]
    lengths = [["percentile", *(f"{p}" for p in _PERCENTILES)]]
    lengths += [[what, *map(str, by.values())] for what, by in report.lengths.items()]
    parts = [rows, [["label", *splits], *counts], lengths]
    if report.scores:
        axes = [f"{axis} {what}" for axis in "VA" for what in ("low", "mean", "high")]
        parts.append([["scores", "split", *axes]])
        parts[-1] += [
            [whose, split, *(f"{value:.2f}" for column in by for value in column)]
            for whose, splits_ in report.scores.items()
            for split, by in splits_.items()
        ]
    text = ["\n".join(_aligned(part)) for part in parts]
    notes = [f"warning: {line}" for line in report.warnings]
    notes += [f"error: {line}" for line in report.errors]
    if notes:
        text.append("\n".join(map(_wrapped, notes)))
    return "\n\n".join(text)


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    """First column to the left, the others to the right; long names are cut."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rest = sum(widths[1:]) + 2 * (len(widths) - 1)
    widths[0] = min(widths[0], _WIDTH - rest)
    for row in rows:
        first = row[0] if len(row[0]) <= widths[0] else row[0][: widths[0] - 3] + "..."
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _wrapped(line: str) -> str:
    return textwrap.fill(line, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)


@dataclass(kw_only=True)
class Check:
    """Count what is in a store, and find what is wrong with it; status 1 where something is."""

    store: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
    """Folder of the store."""
    progress: bool = True
    """Draw a progress bar."""

    def run(self) -> int:
        """Print the report.

        Returns:
            Exit status: 1 where there are errors.

        Raises:
            UserError: there is no store, or its manifest is damaged.
        """
        report = check_store(self.store, progress=self.progress)
        print(table(report))
        result(vars(report))
        return int(bool(report.errors))
