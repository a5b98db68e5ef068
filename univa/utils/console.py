"""What a command shows: results, remarks, progress, tables; `--json` and `--quiet` for all of them.

A command does four things and gets both options, and a log without control characters:

    print(table(rows))                                        # its result, for people
    note(f"scorer in {folder}")                               # a remark: standard error
    for item in progress(items, "scoring", unit="file"): ...  # or: bar = progress(total=n, ...)
    return {"scorer": folder, **figures}                      # its result, for machines

`univa.cli` takes the two options off the command line. With `--json` what `run` returns is the one
JSON document on standard output, and all that is printed goes to standard error. With `--quiet`
remarks and progress are left out, with both everything but the document. An example for `--help`
is one line in `univa/cli/examples.py`.
"""

from __future__ import annotations

import codecs
import io
import json
import math
import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any, TextIO

from univa.errors import UserError

__all__ = [
    "OPTIONS_HELP",
    "WIDTH",
    "cut",
    "fit_markdown",
    "json_text",
    "note",
    "output_that_takes_all",
    "pad",
    "printable",
    "progress",
    "rank",
    "result",
    "say",
    "showing",
    "table",
    "take_options",
    "text_width",
    "wants_json",
]

WIDTH = 80  # columns that every table fits
LINE_SECONDS = 15.0  # between two lines of progress in a log, at first

OPTIONS_HELP = """\
every command:
  --json      print the result as one JSON document, all else to standard error
  --quiet     print the result and errors only, no progress and no remarks"""


@dataclass
class _Display:
    json: bool = False
    quiet: bool = False
    result: list[Any] = field(default_factory=list)  # one at most


_display: ContextVar[_Display] = ContextVar("display", default=_Display())  # noqa: B039


def take_options(args: Sequence[str]) -> tuple[list[str], bool, bool]:
    """Take `--json` and `--quiet` off a command line.

    Returns:
        The other arguments, whether `--json` was there, whether `--quiet` was.
    """
    rest = [arg for arg in args if arg not in ("--json", "--quiet")]
    return rest, "--json" in args, "--quiet" in args


@contextmanager
def showing(*, as_json: bool = False, quiet: bool = False, main: bool = True) -> Iterator[None]:
    """Run a command inside the block; at its end print the document that `result` was given.

    Args:
        as_json: `--json`.
        quiet: `--quiet`.
        main: False in the processes of torchrun that print nothing.

    Raises:
        UserError: the document cannot be written as JSON.
    """
    display = _Display(json=as_json, quiet=quiet)
    out = sys.stdout
    token = _display.set(display)
    if quiet or not sys.stderr.isatty():
        _hide_bars_of_libraries()
    try:
        with ExitStack() as stack:
            if as_json:
                target: TextIO = sys.stderr
                if quiet:
                    target = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(redirect_stdout(target))
            yield
        if as_json and main and display.result:  # a command that fails, or is stopped, has none
            print(json_text(_plain(display.result[0]), out, indent=2), file=out, flush=True)
    finally:
        _display.reset(token)


@contextmanager
def output_that_takes_all() -> Iterator[None]:
    """Standard output inside the block writes what its encoding lacks as escapes, not a traceback.

    Raises:
        OSError: at the end of the block, where standard output does not take what is left.
    """
    out = sys.stdout
    if not isinstance(out, io.TextIOWrapper):  # closed, or a stand-in that takes every character
        yield
        return
    errors = out.errors
    out.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        out.flush()  # here an error can still be told
        out.reconfigure(errors=errors)


def json_text(value: Any, file: TextIO, *, indent: int | None = None) -> str:
    """JSON for a file: in plain characters, or with escapes where its encoding is not UTF-8."""
    plain = codecs.lookup(file.encoding or "utf-8").name == "utf-8"
    return json.dumps(value, ensure_ascii=not plain, indent=indent)


def _hide_bars_of_libraries() -> None:
    """No bars of transformers and the hub, which they draw in logs too."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when they are imported
    transformers = sys.modules.get("transformers.utils.logging")
    if transformers is not None:
        transformers.disable_progress_bar()


def wants_json() -> bool:
    """True where the command was given `--json`."""
    return _display.get().json


def result(document: Any) -> None:
    """Give the result for machines: plain JSON types, paths, NaN and infinity (as null)."""
    _display.get().result[:] = [document]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def note(line: str) -> None:
    """Say something on standard error that is not the result; not with `--quiet`."""
    if _display.get().quiet:
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)  # above a bar that is on the screen
    else:
        print(line, file=sys.stderr, flush=True)


def progress(
    items: Iterable[Any] | None = None,
    description: str = "",
    *,
    unit: str = "step",
    total: int | None = None,
    initial: int = 0,
    scale: bool = False,
    enabled: bool = True,
) -> Any:
    """Show how far long work is, on standard error.

    On a terminal a bar with rate and remaining time. Elsewhere a plain line now and then: the
    first after `LINE_SECONDS`, later ones each a tenth of the time so far apart, so that a log of
    hours has some dozens of them. Nothing with `--quiet`.

    Args:
        items: gone through and counted; None where `update` counts.
        description: what is being done.
        unit: what is counted, in the singular.
        total: how many there are; of `items` if left out.
        initial: how many are done already.
        scale: write large numbers as 1.2k.
        enabled: False shows nothing.

    Returns:
        An iterable over `items`, with `update`, `set_postfix` and `close`; a context manager.
    """
    from tqdm import tqdm

    common = {
        "desc": description or None,
        "unit": unit,
        "total": total,
        "initial": initial,
        "unit_scale": scale,
        "disable": not enabled or _display.get().quiet,
        "file": sys.stderr,
    }
    if sys.stderr.isatty():
        return tqdm(items, dynamic_ncols=True, **common)
    colon = "{desc}: " if description else ""
    return _lines()(
        items,
        delay=LINE_SECONDS,
        mininterval=LINE_SECONDS,
        miniters=1,  # else tqdm's own thread draws too
        leave=False,
        bar_format=colon + "{n_fmt} of {total_fmt}, {rate_fmt}, {remaining} left{postfix}",
        **common,
    )


@cache
def _lines() -> Any:
    """tqdm's counting, shown as whole lines. Made when needed: help needs no tqdm."""
    from tqdm import tqdm

    class Lines(tqdm):
        mininterval: float

        def display(self, msg: str | None = None, pos: int | None = None) -> bool:
            if msg is None:
                print(str(self), file=self.fp, flush=True)
                self.mininterval = max(self.mininterval, self.format_dict["elapsed"] / 10)
            return False

        def clear(self, nolock: bool = False) -> None:
            """Lines that are written stay."""

        def close(self) -> None:
            shown = not self.disable and self.last_print_t >= self.start_t + self.delay
            if shown and self.n != self.last_print_n:
                self.display()
            super().close()

    return Lines


def printable(text: str) -> str:
    """One line that does nothing to a terminal: no control characters, single spaces."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    return " ".join(shown.split())


def text_width(text: str) -> int:
    """Columns that a line takes in a terminal; Chinese characters take two."""
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


def cut(text: str, width: int) -> str:
    """The text, its end replaced by an ellipsis where it takes more than `width` columns."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - 1:
        text = text[:-1]
    return text + "…"


def pad(text: str, width: int, *, right: bool = False) -> str:
    """The text, cut or filled up to `width` columns; `right` puts it at the end of them."""
    text = cut(text, width)
    space = " " * (width - text_width(text))
    return space + text if right else text + space


def table(rows: Sequence[Sequence[str]], *, width: int = WIDTH) -> str:
    """Lay out cells, the first column to the left, the others to the right.

    A table that is wider than `width` goes on below with its next columns, each part beginning
    with the first column again.

    Args:
        rows: equally many cells each; the first row is the head.
        width: most columns of a line.

    Raises:
        UserError: there is a column that does not fit `width` at all.
    """
    widths = [max(text_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    longest = width - 2 - max(widths[1:], default=-2)  # what the first column may take
    if longest < 1:
        raise UserError(f"a column is wider than {width} characters; give shorter names")
    widths[0] = min(widths[0], longest)
    parts: list[list[int]] = [[]]
    room = width - widths[0]
    for column in range(1, len(widths)):
        if 2 + widths[column] > room:
            parts.append([])
            room = width - widths[0]
        parts[-1].append(column)
        room -= 2 + widths[column]
    return "\n\n".join(
        "\n".join(
            "  ".join(
                [pad(row[0], widths[0]), *(pad(row[i], widths[i], right=True) for i in part)]
            ).rstrip()
            for row in rows
        )
        for part in parts
    )


def fit_markdown(text: str, *, width: int = WIDTH) -> str:
    """Markdown for a terminal: its tables laid out as `table` does, the rest wrapped."""
    parts: list[str] = []
    for is_table, group in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        if is_table:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in group]
            parts.append(table([row for row in rows if set(row) != {"---"}], width=width))
        else:
            parts += [textwrap.fill(line, width) for line in group]
    return "\n".join(parts)


def rank() -> str:
    """Rank of this process, as torchrun gives it; "0" without torchrun."""
    return os.environ.get("RANK", "0")


def say(line: str) -> None:
    """Print for people what all processes of torchrun have in common; one of them tells."""
    if rank() == "0":
        print(line, file=sys.stderr)
