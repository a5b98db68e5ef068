"""The README's figures, from the committed run that its marker names.

python -m benchmarks readme                      # again from the same file
python -m benchmarks readme FILE.json            # from another one in benchmarks/results
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import headline, machine_line
from benchmarks.results import BUSY, FOLDER, load
from univa.errors import UserError
from univa.utils.files import atomic_write_text

README = FOLDER.parents[1] / "README.md"
FIGURES = ("objective at B = 32", "peak memory at N = 16384", "training step")
_BLOCK = re.compile(
    r"<!-- benchmarks: (?P<name>[\w.-]+) -->\n.*?<!-- end of benchmarks -->", re.DOTALL
)


def block(name: str) -> str:
    """What stands between the markers for benchmarks/results/<name>."""
    if Path(name).name != name:
        raise UserError(f"{name}: give the name of a file in benchmarks/results, without a folder")
    run = load(FOLDER / name)
    if len(rows := headline(run)) != len(FIGURES):
        raise UserError(f"{name} lacks a figure of README's: {', '.join(FIGURES)}")
    busy = run.machine["busy_before_percent"] or 0  # null: not known
    note = f" Other processes used {busy} % of the cores meanwhile." if busy > BUSY else ""
    lines = [
        f"<!-- benchmarks: {name} -->",
        f"{machine_line(run)}; medians.{note}",
        f"Made by `{run.command}`,",
        "inserted by `python -m benchmarks readme`; all figures, peers and plots are in the",
        f"[report](benchmarks/results/{Path(name).stem}.md).",
        "",
        "| figure | univa | beside |",
        "|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "<!-- end of benchmarks -->",
    ]
    return "\n".join(lines)


def updated(text: str, name: str | None = None) -> str:
    """The README with its block made anew, from the file that it names or from another.

    Raises:
        UserError: the README has no markers, or the file is not one of benchmarks/results, cannot
            be read or lacks one of the figures.
    """
    found = _BLOCK.search(text)
    if found is None:
        raise UserError("README.md has no block `<!-- benchmarks: FILE.json -->`")
    return text[: found.start()] + block(name or found["name"]) + text[found.end() :]


def update(name: str | None = None) -> None:
    """Rewrite README.md."""
    atomic_write_text(README, updated(README.read_text(), name))
