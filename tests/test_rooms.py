"""Arrows between rooms go one way: the contracts in pyproject.toml see a wrong one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in a folder."""
    code = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; lint_imports_command()", "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The packages and their contracts, to plant an import in."""
    for name in ("univa", "univa_kernels"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_hold(copy: Path):
    done = lint(copy)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("file", "planted", "broken"),
    [
        ("univa/utils/files.py", "import univa.data.corpus", "Rooms of univa"),
        ("univa_kernels/ops.py", "import univa.errors", "univa_kernels knows nothing"),
        ("univa_kernels/reference.py", "import univa_kernels.ops", "The reference imports nothing"),
        ("univa_kernels/_triton/configs.py", "import univa_kernels._triton.cache", "No circle"),
        ("univa/data/corpus.py", "import univa.data.batching.sampler", "No circle"),
    ],
)
def test_a_wrong_arrow_is_seen(copy: Path, file: str, planted: str, broken: str):
    path = copy / file
    # In a function: hiding an import there does not hide a circle.
    path.write_text(f"{path.read_text()}\n\ndef planted():\n    {planted}\n")
    done = lint(copy)
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if broken in line and "BROKEN" in line]
    assert line
