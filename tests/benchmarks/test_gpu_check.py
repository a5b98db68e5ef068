"""scripts/gpu_check.sh without a GPU: its order, its time limit and how it is stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.sh"
# An interpreter that says what it was asked for; the suite takes as long as it is let.
INTERPRETER = """#!/usr/bin/env bash
case "$*" in
-) cat >/dev/null; echo 9.0 ;;
"-c "*) echo a-gpu ;;
*) echo "asked: $*" ;;
esac
case "$*" in
*"benchmarks run"*)
    exec {python} -c "
import time
try:
    time.sleep({seconds})
except KeyboardInterrupt:
    print('kept', flush=True)
" ;;
esac
"""

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and shutil.which("c++") and shutil.which("timeout")),
    reason="needs bash, timeout and a C++ compiler",
)


@pytest.fixture
def start(tmp_path):
    processes = []

    def begin(*, seconds: float, limit: int = 60) -> subprocess.Popen[str]:
        interpreter = tmp_path / "python"
        interpreter.write_text(INTERPRETER.format(python=sys.executable, seconds=seconds))
        interpreter.chmod(0o755)
        environment = {"PYTHON": str(interpreter), "UNIVA_GPU_SECONDS": str(limit)}
        # As from a terminal: where interrupts are ignored, a script cannot choose to hear them.
        process = subprocess.Popen(
            ["env", "--default-signal=INT", "bash", SCRIPT],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        return process

    yield begin
    for process in processes:
        if process.poll() is None:
            process.terminate()
            process.wait(20)


def test_figures_come_first(start):
    text, _ = (process := start(seconds=0)).communicate(timeout=30)
    assert process.returncode == 0, text
    asked = [line for line in text.splitlines() if line.startswith("asked: ")]
    wanted = ["build_ext", "benchmarks run", "benchmarks.gpu ", "gpu_small_batch", "-m gpu tests"]
    places = [next(k for k, line in enumerate(asked) if part in line) for part in wanted]
    assert places == sorted(places)
    assert places[-1] < next(k for k, line in enumerate(asked) if "not gpu" in line)


def test_what_does_not_fit_is_told_and_what_runs_is_interrupted(start):
    text, _ = (process := start(seconds=50, limit=6)).communicate(timeout=30)
    assert process.returncode == 1
    assert "kept" in text
    assert "Tests marked gpu (not run, out of time)" in text
    assert "-m gpu tests" not in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_reaches_what_runs_and_ends_the_script(start, number):
    process = start(seconds=50)
    for line in process.stdout:
        if "benchmarks run" in line:
            break
    time.sleep(0.5)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal's, to the whole group
    else:
        process.send_signal(number)
    text, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "kept" in text
    assert "STOPPED" in text
    assert "benchmarks.gpu" not in text
