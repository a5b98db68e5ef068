"""The command `univa`. Torch is imported by the commands that need it, so that help is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence

from univa._version import __version__
from univa.cli.examples import EXAMPLES
from univa.errors import UserError
from univa.utils.console import (
    OPTIONS_HELP,
    output_that_takes_all,
    rank,
    result,
    say,
    showing,
    take_options,
)

__all__ = ["main"]


def _dataclass(module: str, name: str, command: str) -> Callable[[Sequence[str]], int]:
    """A command that is a dataclass: its fields are the options, `run` does the work.

    An integer that `run` returns is the exit status, anything else the document of `--json`.
    """

    def run(args: Sequence[str]) -> int:
        import importlib

        import tyro

        kind = getattr(importlib.import_module(module), name)
        options = tyro.cli(kind, args=args, prog=f"univa {command}")
        outcome = options.run()
        if isinstance(outcome, int):
            return outcome
        result(outcome)
        return 0

    return run


def _train(args: Sequence[str]) -> int:
    from univa.cli.train import main as train

    return train(args)


def _ablate(args: Sequence[str]) -> int:
    from univa.cli.ablate import main as ablate

    return ablate(args)


_COMMANDS: dict[tuple[str, ...], tuple[Callable[[Sequence[str]], int], str]] = {
    ("train",): (_train, "train a preset: `univa train demo`"),
    ("evaluate",): (
        _dataclass("univa.evaluation.evaluate", "Evaluate", "evaluate"),
        "score the best checkpoint of a run",
    ),
    ("predict",): (
        _dataclass("univa.inference.predict", "Predict", "predict"),
        "emotions of dialogues of your own",
    ),
    ("ablate",): (_ablate, "train a preset without its parts, and tabulate"),
    ("figures",): (
        _dataclass("univa.figures.cli", "Figures", "figures"),
        "draw maps, matrices and curves of a run",
    ),
    ("report",): (
        _dataclass("univa.report.cli", "Report", "report"),
        "write one HTML page about runs",
    ),
    ("convert-checkpoint",): (
        _dataclass("univa.paper.convert_checkpoint", "ConvertCheckpoint", "convert-checkpoint"),
        "turn a .pth of the authors into a model of ours",
    ),
    ("data", "convert"): (
        _dataclass("univa.data.importers.convert", "Convert", "data convert"),
        "turn the authors' feature files into a store",
    ),
    ("data", "import-table"): (
        _dataclass("univa.data.importers.table", "ImportTable", "data import-table"),
        "turn a table of your own and features into a store",
    ),
    ("data", "import-csd"): (
        _dataclass("univa.data.importers.csd", "ImportCsd", "data import-csd"),
        "turn computational sequences (MOSEI) into a store",
    ),
    ("data", "import-m3ed"): (
        _dataclass("univa.data.importers.m3ed", "ImportM3ed", "data import-m3ed"),
        "turn M3ED's annotation and features into a store",
    ),
    ("data", "check"): (
        _dataclass("univa.data.store.check", "Check", "data check"),
        "count what is in a store, find what is wrong",
    ),
    ("data", "verify"): (
        _dataclass("univa.data.importers.convert", "Verify", "data verify"),
        "compare a store with its checksums",
    ),
    ("va", "fit-text"): (
        _dataclass("univa.va.cli", "FitText", "va fit-text"),
        "fit a text valence-arousal scorer",
    ),
    ("va", "fit-audio"): (
        _dataclass("univa.va.cli", "FitAudio", "va fit-audio"),
        "fit one of speech",
    ),
    ("va", "fit-vision"): (
        _dataclass("univa.va.cli", "FitVision", "va fit-vision"),
        "fit one of pictures and videos",
    ),
    ("va", "score"): (
        _dataclass("univa.va.cli_score", "Score", "va score"),
        "score a manifest: text, audio or vision",
    ),
    ("va", "score-text"): (
        _dataclass("univa.va.cli_score", "ScoreText", "va score-text"),
        "score the utterances of a data folder with a text scorer",
    ),
    ("data", "extract-audio"): (
        _dataclass("univa.media.extract", "ExtractAudio", "data extract-audio"),
        "features of audio files from a pre-trained encoder",
    ),
    ("data", "extract-vision"): (
        _dataclass("univa.media.extract", "ExtractVision", "data extract-vision"),
        "features of images or videos from a pre-trained encoder",
    ),
}
_GROUPS = {name[0] for name in _COMMANDS if len(name) > 1}


def _usage() -> str:
    lines = [f"  {' '.join(name):<22}{text}" for name, (_, text) in _COMMANDS.items()]
    return "\n".join(
        [
            "usage: univa COMMAND [options]",
            "",
            "Valence-arousal driven contrastive learning for multimodal emotion recognition.",
            "",
            *lines,
            "",
            "  -h, --help            show this, or the options of a command after it",
            "  --version             show the version",
        ]
    )


def _main(args: Sequence[str]) -> int:
    if args[:1] == ["--version"]:
        print(f"univa {__version__}")
        return 0
    if (
        not args
        or args[0] in ("-h", "--help")
        or (args[0] in _GROUPS and list(args[1:]) in ([], ["-h"], ["--help"]))
    ):
        print(_usage())
        return 0
    for name, (command, _) in _COMMANDS.items():
        if tuple(args[: len(name)]) == name:
            return _run(" ".join(name), command, args[len(name) :])
    given = " ".join(args[:2]) if args[0] in _GROUPS else args[0]
    known = ", ".join(" ".join(name) for name in _COMMANDS)
    raise UserError(f"no command {given!r}; commands: {known}")


def _run(name: str, command: Callable[[Sequence[str]], int], args: Sequence[str]) -> int:
    """Run a command with the options that all of them have."""
    rest, as_json, quiet = take_options(args)
    wants_help = "-h" in rest or "--help" in rest
    help_end = f"{OPTIONS_HELP}\n\nexample:\n  {EXAMPLES.get(name, '')}"
    try:
        with showing(as_json=as_json, quiet=quiet, main=rank() == "0"):
            status = command(rest)
    except SystemExit as stop:  # as tyro ends after help
        if wants_help and not stop.code:
            print(help_end)
        raise
    if wants_help:
        print(help_end)
    return status


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        args: arguments without the program's name; those of the process when None.

    Returns:
        Exit status: 0, 2 after a mistake of the user, 1 where the system refuses to read or write,
        128 + signal after a stop by signal.
    """
    try:
        with output_that_takes_all():
            return _main(sys.argv[1:] if args is None else list(args))
    except UserError as error:
        say(f"univa: error: {error}")
        return 2
    except BrokenPipeError:  # the reader went away, as with `univa train demo --help | head`
        _drop_output()
        return 1
    except OSError as error:  # a disk that is full, as a rule
        _drop_output()
        where = error.filename or "standard output or a file"  # whichever it was, it has no name
        said = " ".join((error.strerror or str(error)).split())
        print(f"univa: error: {where}: {said}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("univa: interrupted")
        return 130


def _drop_output() -> None:
    """Send to nowhere what standard output does not take."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        # Python writes it once more when it ends, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
