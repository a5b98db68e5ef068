"""One finished run that many tests look at, and bit-for-bit arithmetic."""

from pathlib import Path

import pytest

from tests.folders import made_once
from tests.train.tiny import one_thread, tiny
from univa.train import train


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny run that nothing interrupted. Do not write into it."""

    def make(folder: Path) -> None:
        with one_thread():
            train(tiny(run_folder=str(folder / "finished")))

    return made_once(tmp_path_factory, "finished", make) / "finished"
