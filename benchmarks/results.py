"""What a run of the suite leaves: one JSON document, the same from every device.

    {"schema": 1, "date", "command", "device", "machine": {...}, "budget_seconds",
     "workloads": {name: {"kind", "facts", "budget_seconds", "took_seconds"}},
     "results": [{"workload", "contender", "figure", "unit", "status", "reason",
                  "rounds", "values"}],
     "not_begun": [name]}

`status` is "measured", "wrong" (held against the float64 truth and off; never timed) or "not run";
the latter two say why. `values[k]` was measured in round `rounds[k]`: what shares a round had the
same inputs and stood side by side. Lower is better in every unit ("s" and "MiB").
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import univa_kernels
from univa.errors import UserError
from univa.utils.files import atomic_write_text

SCHEMA = 1
BUSY = 10  # percent of all cores; when others use more, reports say so
FOLDER = Path(__file__).parent / "results"
BOTH, FORWARD, STEP, PEAK = "forward + backward", "forward", "step", "peak memory"
MEASURED, WRONG, NOT_RUN = "measured", "wrong", "not run"
_PACKAGES = ("torch", "triton", "pytorch-metric-learning", "pykeops", "numpy", "transformers")


@dataclass(kw_only=True)
class Result:
    """One figure of one contender in one workload."""

    workload: str
    contender: str
    figure: str = BOTH
    unit: str = "s"
    status: str = MEASURED
    reason: str | None = None
    rounds: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str, str]:
        return self.workload, self.contender, self.figure

    @property
    def median(self) -> float:
        return statistics.median(self.values)


@dataclass(kw_only=True)
class Run:
    """A document, read or to be written."""

    device: str
    command: str
    machine: dict[str, Any]
    date: str
    workloads: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    not_begun: list[str] = field(default_factory=list)

    def find(self, workload: str, contender: str, figure: str = BOTH) -> Result | None:
        """The result with this key, measured or not."""
        wanted = (workload, contender, figure)
        return next((result for result in self.results if result.key == wanted), None)

    def measured(self, workload: str, contender: str, figure: str = BOTH) -> Result | None:
        """The result with this key, if it has values."""
        result = self.find(workload, contender, figure)
        return result if result is not None and result.values else None

    def names(self, kind: str) -> list[str]:
        """Workloads of a kind, in the order in which they ran."""
        return [name for name, about in self.workloads.items() if about["kind"] == kind]

    def contenders(self, workload: str) -> list[str]:
        """Contenders of a workload, in order."""
        return list(dict.fromkeys(r.contender for r in self.results if r.workload == workload))

    def document(self) -> dict[str, Any]:
        """As the JSON holds it."""
        budget = sum(about["budget_seconds"] for about in self.workloads.values())
        head = {"schema": SCHEMA, "date": self.date, "command": self.command}
        return head | {
            "device": self.device,
            "machine": self.machine,
            "budget_seconds": budget,
            "workloads": self.workloads,
            "not_begun": self.not_begun,
            "results": [asdict(result) for result in self.results],
        }

    def save(self, path: Path) -> None:
        """Write the document, whole or not at all."""
        text = json.dumps(self.document(), indent=1)
        # A list of numbers on one line: thousands of rounds are to be kept, not to be read.
        text = re.sub(r"\[\s+([-\d.e,\s+]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        atomic_write_text(path, text + "\n")


def start(device: str, command: str) -> Run:
    """An empty run on this machine, now."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(device=device, command=command, machine=machine(device), date=date)


def parse(document: dict[str, Any], source: str) -> Run:
    """A run from JSON: the suite's own document, or pytest-benchmark's with or without it.

    Raises:
        UserError: it is neither.
    """
    try:
        return _parse(document)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{source} is not a result of the benchmark suite (schema {SCHEMA}) or pytest-benchmark"
        ) from None


def _parse(document: dict[str, Any]) -> Run:
    if "benchmarks" in document:
        if "univa" not in document:
            return _of_pytest_benchmark(document)
        document = document["univa"]
    if document["schema"] != SCHEMA:
        raise ValueError("another schema")
    results = [Result(**entry) for entry in document["results"]]
    for result in results:
        about = document["workloads"][result.workload]
        if about["kind"] is None or not all(0 < value < math.inf for value in result.values):
            raise ValueError("no kind, or a figure that is none")
    return Run(
        device=document["device"],
        command=document["command"],
        machine=document["machine"],
        date=document["date"],
        workloads=document["workloads"],
        results=results,
        not_begun=list(document.get("not_begun", [])),
    )


def load(path: Path) -> Run:
    """Read a run.

    Raises:
        UserError: no such file, or it holds something else.
    """
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} is not a result of the benchmark suite")
    return parse(document, str(path))


def _of_pytest_benchmark(document: dict[str, Any]) -> Run:
    """Any pytest-benchmark JSON: a test is a workload; its rounds, where they were saved."""
    results = []
    for entry in document["benchmarks"]:
        stats = entry["stats"]
        values = stats.get("data") or [stats["median"]]
        results.append(
            Result(
                workload=entry["fullname"],
                contender="-",
                figure="-",
                rounds=list(range(1, len(values) + 1)),
                values=values,
            )
        )
    return Run(
        device="cpu",
        command="pytest",
        machine={},
        date=document.get("datetime", ""),
        results=results,
    )


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on. No host name and no path."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "busy_before_percent": _busy_percent(),
    }
    if device == "cuda":
        facts["gpu"] = torch.cuda.get_device_name()
        facts["cuda"] = torch.version.cuda
    for name in _PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            facts[name] = "not installed"
    info = univa_kernels.build_info()
    facts["univa_kernels"] = info["univa_kernels"]
    facts["compiler"] = info.get("extension_compiler", "no extension")
    return facts


def _busy_percent(seconds: float = 1.0) -> int | None:
    """How much of all cores other processes use, while this one sleeps; None where unknown."""

    def spent() -> tuple[int, int]:
        fields = [int(f) for f in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]  # all; idle and waiting for a disk

    try:
        before = spent()
        time.sleep(seconds)
        after = spent()
    except OSError:
        return None
    total = max(1, after[0] - before[0])
    return round(100 * (1 - (after[1] - before[1]) / total))


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def file_name(run: Run) -> str:
    """`<machine>` of benchmarks/results/<machine>.json."""
    facts = run.machine
    name = facts["gpu"] if run.device == "cuda" else f"{facts['cpu']} {facts['threads']} threads"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def paired(result: Result, base: Result) -> list[float]:
    """Ratios of the rounds that both were measured in."""
    beside = dict(zip(base.rounds, base.values, strict=True))
    pairs = zip(result.rounds, result.values, strict=True)
    return [value / beside[number] for number, value in pairs if number in beside]


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    ordered = sorted(values)
    last = len(ordered) - 1

    def at(share: float) -> float:
        low = int(share * last)
        rest = share * last - low
        return ordered[low] + rest * (ordered[min(low + 1, last)] - ordered[low])

    return at(0.25), at(0.5), at(0.75)
