"""Run the test suite as other machines would: narrower processors, other threads, no home folder.

    make test-matrix                    # all of the suite, once for each setting
    make test-matrix OPTIONS=--quick    # fast tests of kernels and model, two settings

Prints a table; keeps the output of each run in build/test-matrix, and the table of a whole round.
Exit status 1 if any test failed. What the processor lacks is listed as not run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "build" / "test-matrix"
QUICK_TESTS = ["-m", "not slow", "tests/kernels", "tests/models", "tests/parity"]
ALL_TESTS = ["tests", "univa", "univa_kernels", "--doctest-modules"]
NOBODY = 54321  # a user that no machine has
AS_NOBODY = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
# The interpreter may lie in root's own home folder.
AS_NOBODY += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to run the suite.

    Attributes:
        name: row of the table.
        environment: variables on top of the caller's.
        needs: the processor's flag without which the setting is left out.
        options: further arguments of pytest.
        homeless: run as a user without a name and a home folder.
    """

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    needs: str | None = None
    options: tuple[str, ...] = ()
    homeless: bool = False


def capability(name: str, mkl: str, onednn: str, threads: int) -> dict[str, str]:
    """Loops of torch and of the engine, of MKL and oneDNN; threads of each process."""
    return {
        "ATEN_CPU_CAPABILITY": name,
        "UNIVA_CPU_CAPABILITY": name,
        "MKL_CBWR": mkl,
        "ONEDNN_MAX_CPU_ISA": onednn,
        **thread_count(threads),
    }


def thread_count(threads: int) -> dict[str, str]:
    """Threads of test processes and of those that they start.

    Tests that compare runs bit for bit set one thread themselves, as do `tests/train` and
    `tests/figures`.
    """
    return {"UNIVA_TEST_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}


SETTINGS = (
    Setting(name="no AVX, 1 thread", environment=capability("default", "COMPATIBLE", "SSE41", 1)),
    Setting(
        name="AVX2, 4 threads", environment=capability("avx2", "AVX2", "AVX2", 4), needs="avx2"
    ),
    Setting(
        name="AVX-512, 2 threads",
        environment=capability("avx512", "AVX512", "AVX512_CORE", 2),
        needs="avx512f",
    ),
    Setting(
        name="AVX2 engine beside torch's own choice, MKL_CBWR=COMPATIBLE",
        environment={"UNIVA_CPU_CAPABILITY": "avx2", "MKL_CBWR": "COMPATIBLE"},
        needs="avx2",
    ),
    Setting(
        name="random order, another hash seed, 2 threads",
        environment={"PYTHONHASHSEED": "20261", **thread_count(2)},
        options=("--random-order", "--random-order-seed=20261"),
    ),
    Setting(name="no home folder, no user name", homeless=True),
)
QUICK = (SETTINGS[0], SETTINGS[1])


def processor_flags() -> set[str]:
    """Flags of this processor; on other systems than Linux none are known."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.is_file() else ""
    found = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return set(found.group(1).split()) if found else set()


def run(setting: Setting, tests: list[str], workers: int) -> tuple[str, bool]:
    """Run the suite; returns its closing line and whether it passed."""
    environment = {**os.environ, **setting.environment}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-n",
        str(workers),
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    command += [*setting.options, *tests]
    log = OUTPUT / (re.sub(r"\W+", "-", setting.name.lower()) + ".log")
    with tempfile.TemporaryDirectory() as folder, log.open("w") as output:
        where = ROOT
        if setting.homeless:
            if os.geteuid() != 0 or shutil.which("setpriv") is None:
                return "not run: needs root and setpriv, to become a user without a name", True
            where = Path(folder) / "univa"
            leave = {".git", ".venv", ".hypothesis", ".mypy_cache", "dist", "runs"}
            shutil.copytree(
                ROOT,
                where,
                ignore=lambda folder, names: leave & {*names} if Path(folder) == ROOT else (),
                symlinks=True,
            )
            os.chmod(folder, 0o755)
            for path in (where, *where.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
            for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
                environment.pop(name, None)
            shared = ROOT.parent / "shared"
            environment.setdefault("UNIVA_SHARED", str(shared))
            environment["PYTHONPATH"] = str(where)
            command = [*AS_NOBODY, *command]
        done = subprocess.run(
            command,
            cwd=where,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    lines = log.read_text(errors="replace").splitlines()
    closing = next((line for line in reversed(lines) if " passed" in line), f"see {log}")
    return closing.strip("= "), done.returncode == 0


def main() -> int:
    """Run every setting and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="fast tests of kernels and model, two settings"
    )
    parser.add_argument("--only", help="the settings with this in their name", default="")
    parser.add_argument("--workers", type=int, default=2, help="test processes at a time")
    parser.add_argument("tests", nargs="*", help="tests to run; default: all")
    options = parser.parse_args()
    OUTPUT.mkdir(parents=True, exist_ok=True)
    flags = processor_flags()
    tests = options.tests or (QUICK_TESTS if options.quick else ALL_TESTS)
    rows, passed = [], True
    settings = QUICK if options.quick else SETTINGS
    chosen = [each for each in settings if options.only.lower() in each.name.lower()]
    if not chosen:
        names = "; ".join(each.name for each in settings)
        parser.error(f"--only: no setting has {options.only!r} in its name; there are: {names}")
    for setting in chosen:
        if setting.needs and setting.needs not in flags:
            rows.append(f"| {setting.name} | not run: no {setting.needs} | |")
            continue
        begin = time.monotonic()
        print(f"{setting.name} ...", flush=True)
        closing, good = run(setting, tests, options.workers)
        passed &= good
        minutes = (time.monotonic() - begin) / 60
        verdict = closing if good else f"FAILED: {closing}"
        rows.append(f"| {setting.name} | {verdict} | {minutes:.1f} |")
        print(f"  {verdict}", flush=True)
    table = "\n".join(["| setting | outcome | minutes |", "|---|---|---|", *rows])
    if not (options.only or options.quick or options.tests):
        (OUTPUT / "table.md").write_text(table + "\n")
    print(f"\n{table}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
