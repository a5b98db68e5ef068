"""What commands show: tables, progress on a terminal and in a log, --json and --quiet."""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from univa.cli import _COMMANDS, main
from univa.cli.examples import EXAMPLES
from univa.errors import UserError
from univa.utils import console

ROOT = Path(__file__).parents[2]
COMMANDS = [" ".join(name) for name in _COMMANDS]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, capsys):
    # Ablate shows its own options alone without a preset.
    with contextlib.suppress(SystemExit):
        assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--json" in out
    assert "--quiet" in out
    example = out.rpartition("example:\n")[2].strip()
    assert example == EXAMPLES[command]
    assert example.startswith(f"univa {command} ")
    assert "--help" not in example
    # The options of the example are options of the command.
    words = example.split()[1 + len(command.split()) :]
    if command in ("train", "ablate"):  # each preset has its own help
        with contextlib.suppress(SystemExit):
            main([command, words[0], "--help"])
        out = capsys.readouterr().out
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", out), option


def test_help_needs_neither_torch_nor_tqdm():
    code = (
        "import sys, univa.cli as c; c.main(['--help']); "
        "sys.exit('torch' in sys.modules or 'tqdm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert result.returncode == 0


cells = st.text("ab1é中", max_size=20)


@given(
    st.integers(1, 12).flatmap(
        lambda n: st.lists(st.lists(cells, min_size=n, max_size=n), min_size=1)
    )
)
def test_tables_fit_and_lose_no_column(rows):
    shown = console.table(rows)
    assert all(console.text_width(line) <= 80 for line in shown.splitlines())
    for row in rows:
        for cell in row[1:]:
            assert cell in shown


def test_a_wide_table_goes_on_below():
    rows = [["split", *(f"emotion{i}" for i in range(12))], ["test", *["12.3"] * 12]]
    first, second = console.table(rows).split("\n\n")
    assert first.splitlines()[0].split() == rows[0][:8]
    assert second.splitlines()[0].split() == [rows[0][0], *rows[0][8:]]
    assert second.splitlines()[1].split() == ["test", *["12.3"] * 5]
    with pytest.raises(UserError, match="wider than 80 characters; give shorter names"):
        console.table([["a", "b" * 80]])


def test_markdown_for_a_terminal():
    text = "| Table 2 | Acc |\n| --- | --- |\n| UniVA | 51.3 |\n\nTest split.\n"
    assert console.fit_markdown(text) == "Table 2   Acc\nUniVA    51.3\n\nTest split."
    row = "| " + " | ".join(["cell number"] * 9) + " |"
    assert max(map(len, console.fit_markdown(f"{row}\n{row}").splitlines())) <= 80


def test_text_that_would_move_the_cursor():
    assert console.printable("a\x1b[2Jb\r\nc\u2028d  e") == "a [2Jb c d e"
    assert console.text_width("中文a") == 5
    assert console.cut("中文中文", 5) == "中文…"
    assert console.pad("中", 4) + "|" == "中  |"
    assert console.pad("ab", 4, right=True) == "  ab"


def log_of(seconds: list[float], monkeypatch, capsys, **options) -> list[str]:
    """Lines of progress in a log, one unit done at each of these times."""
    clock = iter([0.0, *seconds])
    now = [0.0]

    def at_time() -> float:
        return now[0]

    monkeypatch.setattr("tqdm.std.time", at_time)
    bar = console.progress(total=len(seconds), description="scoring", unit="file", **options)
    next(clock)
    for now[0] in clock:
        bar.update()
    bar.close()
    error = capsys.readouterr().err
    assert "\r" not in error
    assert error == "" or error.endswith("\n")
    return error.splitlines()


def test_progress_in_a_log_is_lines(monkeypatch, capsys):
    lines = log_of([10.0 * (k + 1) for k in range(40)], monkeypatch, capsys)
    assert lines[0] == "scoring: 2 of 40, 10.00s/file, 06:20 left"
    assert lines[-1].startswith("scoring: 40 of 40, ")
    # Every 15 s, that is at every second step, and less often after 150 s.
    assert 5 < len(lines) < 20


def test_short_work_leaves_no_line(monkeypatch, capsys):
    assert log_of([0.1, 0.2], monkeypatch, capsys) == []
    assert log_of([100.0, 200.0], monkeypatch, capsys, enabled=False) == []
    with console.showing(quiet=True):
        assert log_of([100.0, 200.0], monkeypatch, capsys) == []


def test_progress_on_a_terminal_has_rate_and_remaining_time():
    code = (
        "import time; from univa.utils.console import progress, note\n"
        "for k in progress(range(20), 'scoring', unit='file'):\n"
        "    time.sleep(0.02)\n"
        "    if k == 15: note('half-way')\n"
    )
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=follower, stdout=subprocess.PIPE
    )
    os.close(follower)
    shown = b""
    with contextlib.suppress(OSError):  # the terminal's other end is closed
        while part := os.read(leader, 4096):
            shown += part
    os.close(leader)
    assert process.wait() == 0
    assert process.stdout is not None
    assert process.stdout.read() == b""
    process.stdout.close()
    assert re.search(rb"\d+/20 \[00:00<00:\d\d, +[\d.]+file/s\]", shown)
    assert b"half-way\r\n" in shown


def test_the_document_is_all_of_standard_output(capsys):
    with console.showing(as_json=True):
        print("a table")
        console.note("a remark")
        console.result({"a": Path("x"), "b": (float("nan"), 1.5), 3: [True, None]})
    out, error = capsys.readouterr()
    assert json.loads(out) == {"a": "x", "b": [None, 1.5], "3": [True, None]}
    assert error == "a table\na remark\n"
    with console.showing(as_json=True, quiet=True):
        print("a table")
        console.note("a remark")
        console.result(1)
    assert capsys.readouterr() == ("1\n", "")
    with console.showing(quiet=True):
        print("a table")
        console.note("a remark")
        console.result(1)
    assert capsys.readouterr() == ("a table\n", "")
    with console.showing(as_json=True, main=False):
        console.result(1)
    assert capsys.readouterr() == ("", "")


FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["--version"], ["evaluate"]])
def test_standard_output_on_a_full_disk(args, unbuffered):
    code = "import sys, univa.cli as c; sys.exit(c.main())"
    if args == ["evaluate"]:  # a document, from a command that needs no run
        code = (
            "import sys, univa.cli as c, univa.utils.console as k\n"
            "c._COMMANDS[('evaluate',)] = (lambda args: k.result({'a': 1}) or 0, '')\n"
            "sys.exit(c.main(['evaluate', '--json']))"
        )
    with FULL.open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *args],
            cwd=ROOT,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
        )
    assert done.stderr == b"univa: error: standard output or a file: No space left on device\n"
    assert done.returncode == 1


def test_characters_that_standard_output_lacks():
    code = (
        "import sys, univa.cli as c, univa.utils.console as k\n"
        "def run(args):\n"
        "    print(k.cut('a long line', 5))\n"
        "    k.result({'a': '\\xe9\\U0001f600'})\n"
        "    return 0\n"
        "c._COMMANDS[('evaluate',)] = (run, '')\n"
        "sys.exit(c.main(sys.argv[1:]))"
    )
    for encoding, plain, document in (
        ("ascii", b"a lo\\u2026\n", b'"\\u00e9\\ud83d\\ude00"'),
        ("utf-8", "a lo…\n".encode(), '"é😀"'.encode()),
    ):
        run = [sys.executable, "-c", code, "evaluate"]
        options = {"cwd": ROOT, "env": os.environ | {"PYTHONIOENCODING": encoding}}
        assert subprocess.run(run, stdout=subprocess.PIPE, **options).stdout == plain
        found = subprocess.run([*run, "--json"], capture_output=True, **options)
        assert document in found.stdout
        assert json.loads(found.stdout) == {"a": "é😀"}


def test_a_file_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    def fail(args):
        raise OSError(28, "No space left on device", "figure.png")

    monkeypatch.setitem(_COMMANDS, ("evaluate",), (fail, ""))
    assert main(["evaluate", "x"]) == 1
    assert capsys.readouterr() == ("", "univa: error: figure.png: No space left on device\n")


def test_a_failure_leaves_no_document(capsys):
    def fail():
        with console.showing(as_json=True):
            console.result(1)
            raise UserError("no")

    with pytest.raises(UserError):
        fail()
    assert capsys.readouterr() == ("", "")
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        print("standard output is back")
    assert out.getvalue() == "standard output is back\n"
    assert main(["evaluate", "nowhere", "--json"]) == 2
    out_text, error = capsys.readouterr()
    assert (out_text, error.count("\n")) == ("", 1)
