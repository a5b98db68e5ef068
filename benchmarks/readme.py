"""The README's figures, from the committed run that its marker names.

python -m benchmarks readme                      # again from the same file
python -m benchmarks readme results/FILE.json    # from another one
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.report import headline, machine_line
from benchmarks.results import BUSY, FOLDER, load

README = FOLDER.parents[1] / "README.md"
_BLOCK = re.compile(
    r"<!-- benchmarks: (?P<name>[\w.-]+) -->\n.*?<!-- end of benchmarks -->", re.DOTALL
)


def block(name: str) -> str:
    """What stands between the markers for benchmarks/results/<name>."""
    run = load(FOLDER / name)
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
        *(f"| {' | '.join(row)} |" for row in headline(run)),
        "<!-- end of benchmarks -->",
    ]
    return "\n".join(lines)


def updated(text: str, name: str | None = None) -> str:
    """The README with its block made anew, from the file that it names or from another.

    Raises:
        SystemExit: the README has no markers, or the file cannot be read.
    """
    found = _BLOCK.search(text)
    if found is None:
        raise SystemExit("README.md has no block `<!-- benchmarks: FILE.json -->`")
    return text[: found.start()] + block(name or found["name"]) + text[found.end() :]


def update(name: str | None = None) -> None:
    """Rewrite README.md."""
    README.write_text(updated(README.read_text(), name))
