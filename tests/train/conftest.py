"""One finished run that many tests look at, and bit-for-bit arithmetic."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.train.tiny import tiny
from univa.train import train


@pytest.fixture(autouse=True)
def _one_thread():
    """The same sums in the same order as the subprocesses, which have one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that nothing interrupted. Do not write into it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = tmp_path_factory.mktemp("runs") / "finished"
    train(replace(tiny(), run_folder=str(run)))
    torch.set_num_threads(threads)
    return run
