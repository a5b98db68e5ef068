"""Commands of the benchmark suite.

python -m benchmarks compare A.json B.json --factor 1.2    # exit 1 on a regression
python -m benchmarks report build/bench.json               # results/<machine>.{json,md,svg}
python -m benchmarks readme                                # README.md's figures again
python -m benchmarks run --device cuda --seconds 150       # without pytest-benchmark
make bench                                                 # the CPU suite, all of the above
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import torch

from benchmarks import suite
from benchmarks.compare import compare
from benchmarks.readme import update
from benchmarks.report import markdown, write
from benchmarks.results import FOLDER, Run, file_name, load, start


def _compare(options: argparse.Namespace) -> int:
    if options.factor < 1:
        raise SystemExit(f"--factor must be at least 1, got {options.factor:g}")
    found = compare(load(options.before), load(options.after))
    print("B over A: ratio of medians (95 % interval); below 1 is better")
    for line in found.lines(options.factor):
        print(line)
    return int(found.failed(options.factor))


def _report(options: argparse.Namespace) -> int:
    run = load(options.run)
    path = options.out or FOLDER / f"{file_name(run)}.json"
    write(run, path)
    print(markdown(run, None))
    if options.readme:
        update(path.name)
    print(path)
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    name = f"python -m benchmarks run --device {options.device}"
    if options.only:
        name += f" --only {shlex.join(options.only)}"
    if options.patience != 1:
        name += f" --patience {options.patience:g}"
    run = start(options.device, name)
    path = options.out or FOLDER / f"{file_name(run)}.json"
    workloads = {"cpu": suite.cpu, "cuda": suite.cuda}[options.device]()
    wanted = options.only or [""]
    for part in wanted:
        if not any(part in workload.name for workload in workloads):
            raise SystemExit(f"no workload has {part!r} in its name")
    chosen = [w for w in workloads if any(part in w.name for part in wanted)]
    for workload in chosen:
        workload.budget *= options.patience
        workload.cap *= options.patience

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
    one.set_defaults(run_command=lambda options: update(options.file) or 0)
    one = commands.add_parser("run", help="run the suite without pytest")
    one.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    one.add_argument("--only", nargs="+", help="workloads with one of these in their name")
    one.add_argument("--seconds", type=float, help="begin no workload that ends later")
    one.add_argument("--patience", type=float, default=1.0, help="multiplies budgets and caps")
    one.add_argument("--out", type=Path, help="default: benchmarks/results/<machine>.json")
    one.set_defaults(run_command=_run)
    options = parser.parse_args()
    return int(options.run_command(options))


if __name__ == "__main__":
    sys.exit(main())
