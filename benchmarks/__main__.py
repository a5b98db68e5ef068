"""Commands of the benchmark suite.

python -m benchmarks compare A.json B.json --factor 1.2    # exit 1 on a regression
python -m benchmarks report build/bench.json               # results/<machine>.{json,md,svg}
python -m benchmarks readme                                # README.md's figures again
python -m benchmarks run --device cuda --seconds 150       # without pytest-benchmark
make bench                                                 # the CPU suite, all of the above
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from pathlib import Path

import torch

from benchmarks import suite
from benchmarks.compare import compare
from benchmarks.readme import update
from benchmarks.report import markdown, write
from benchmarks.results import FOLDER, Run, file_name, load, start
from univa.errors import UserError
from univa.utils.files import check_writable

BUILD = Path("build")


def _compare(options: argparse.Namespace) -> int:
    if not 1 <= options.factor < math.inf:
        raise UserError(f"--factor must be at least 1, got {options.factor:g}")
    found = compare(load(options.before), load(options.after))
    print("B over A: ratio of medians (95 % interval); below 1 is better")
    for line in found.lines(options.factor):
        print(line)
    return int(found.failed(options.factor))


def _report(options: argparse.Namespace) -> int:
    run = load(options.run)
    if not run.machine:
        raise UserError(
            f"{options.run} holds no run of this suite, only pytest-benchmark's figures"
        )
    path = options.out or FOLDER / f"{file_name(run)}.json"
    if options.readme and path.resolve().parent != FOLDER.resolve():
        raise UserError(f"--readme names a file of benchmarks/results; --out is {path}")
    write(run, path)
    print(markdown(run, None))
    if options.readme:
        update(path.name)
    print(path)
    return 0


def _readme(options: argparse.Namespace) -> int:
    update(options.file)
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("torch sees no CUDA device; leave out --device cuda")
    if not 0 < options.patience < math.inf:
        raise UserError(f"--patience must be above 0, got {options.patience:g}")
    if options.seconds is not None and not options.seconds > 0:
        raise UserError(f"--seconds must be above 0, got {options.seconds:g}")
    name = f"python -m benchmarks run --device {options.device}"
    if options.only:
        name += f" --only {shlex.join(options.only)}"
    if options.patience != 1:
        name += f" --patience {options.patience:g}"
    if options.seconds is not None:
        name += f" --seconds {options.seconds:g}"
    workloads = {"cpu": suite.cpu, "cuda": suite.cuda}[options.device]()
    wanted = options.only or [""]
    for part in wanted:
        if not any(part in workload.name for workload in workloads):
            names = "; ".join(workload.name for workload in workloads)
            raise UserError(f"no workload has {part!r} in its name; there are: {names}")
    chosen = [w for w in workloads if any(part in w.name for part in wanted)]
    for workload in chosen:
        workload.budget *= options.patience
        workload.cap *= options.patience

    run = start(options.device, name)
    # A part of the suite does not take the place of a whole run.
    folder = FOLDER if chosen == workloads else BUILD
    path = options.out or folder / f"{file_name(run)}.json"
    check_writable(path)

    def keep(run: Run) -> None:
        write(run, path)  # after every workload: what is there stays if the run is stopped

    suite.execute(
        chosen,
        run,
        seconds=options.seconds,
        after_each=keep,
        say=lambda line: print(line, flush=True),
    )
    print(path)
    return 0


def main() -> int:
    """Parse and run a command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmark suite.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("compare", help="ratios of two runs; exit 1 on a regression")
    one.add_argument("before", type=Path, metavar="A.json")
    one.add_argument("after", type=Path, metavar="B.json")
    one.add_argument("--factor", type=float, default=1.2, help="how much worse is a regression")
    one.set_defaults(run_command=_compare)
    one = commands.add_parser("report", help="JSON, Markdown and plots of a run")
    one.add_argument("run", type=Path, metavar="RUN.json")
    one.add_argument("--out", type=Path, help="default: benchmarks/results/<machine>.json")
    one.add_argument("--readme", action="store_true", help="put its figures into README.md")
    one.set_defaults(run_command=_report)
    one = commands.add_parser("readme", help="write README.md's figures")
    one.add_argument("file", nargs="?", help="in benchmarks/results/; default: the one it names")
    one.set_defaults(run_command=_readme)
    one = commands.add_parser("run", help="run the suite without pytest")
    one.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    one.add_argument("--only", nargs="+", help="workloads with one of these in their name")
    one.add_argument("--seconds", type=float, help="begin no workload that ends later")
    one.add_argument("--patience", type=float, default=1.0, help="multiplies budgets and caps")
    one.add_argument(
        "--out", type=Path, help="default: benchmarks/results/<machine>.json, in build/ with --only"
    )
    one.set_defaults(run_command=_run)
    options = parser.parse_args()
    try:
        return int(options.run_command(options))
    except UserError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
