"""Options and the extra document of the benchmark suite under pytest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import suite
from benchmarks.results import Run, start

_RUN = pytest.StashKey[Run]()
torch.set_num_threads(min(2, torch.get_num_threads()))


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--smoke`: every kind of workload at a size of seconds."""
    parser.addoption("--smoke", action="store_true", help="tiny sizes: does the suite work")
    parser.addoption(
        "--keep", type=Path, metavar="FILE", help="save after each workload, whatever comes"
    )


@pytest.fixture(scope="session")
def keep(request: pytest.FixtureRequest) -> Callable[[Run], None]:
    """Save what there is, where `--keep` asks for it."""
    path = request.config.getoption("--keep")
    return lambda run: None if path is None else run.save(path)


@pytest.fixture(scope="session")
def document(request: pytest.FixtureRequest) -> Run:
    """The run that all tests write into."""
    run = start("cpu", "make bench")
    request.config.stash[_RUN] = run
    return run


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each contender of each workload, workload after workload."""
    if "workload" in metafunc.fixturenames:
        chosen = suite.smoke() if metafunc.config.getoption("--smoke") else suite.cpu()
        metafunc.parametrize(
            ("workload", "contender"),
            [(workload, name) for workload in chosen for name in workload.names],
            ids=[f"{workload.name} - {name}" for workload in chosen for name in workload.names],
        )


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]
) -> None:
    """Put the suite's own document, with what was not run or wrong, beside pytest-benchmark's."""
    run = config.stash.get(_RUN, None)
    if run is not None:
        output_json["univa"] = run.document()
