"""Two small runs, with and without the contrastive loss, that many tests look at."""

import itertools
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.folders import made_once
from tests.train.tiny import one_thread, options, tiny
from univa.cli import main
from univa.config import TrainConfig
from univa.data import Corpus
from univa.data.build import load_corpus
from univa.report.cli import Report
from univa.train import train


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a run without the contrastive loss and of one with it. Do not write into them."""

    def make(folder: Path) -> None:
        config = tiny(epochs=2)
        without = replace(config, loss=replace(config.loss, alpha=0.0))
        with one_thread():
            train(replace(without, run_folder=str(folder / "without")))
            train(replace(config, run_folder=str(folder / "with")))

    folder = made_once(tmp_path_factory, "pair", make)
    return folder / "without", folder / "with"


@pytest.fixture
def run(pair: tuple[Path, Path], tmp_path: Path) -> Path:
    """A copy of the run with the contrastive loss, to write into."""
    return Path(shutil.copytree(pair[1], tmp_path / "run"))


@pytest.fixture(scope="session")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `univa ablate` leaves of Table 2, two seeds."""

    def make(folder: Path) -> None:
        args = options(tiny(epochs=1))
        args = args[: args.index("--save-every")]
        args += ["--tables", "2", "--seeds", "1", "2", "--folder", str(folder / "all"), "--quiet"]
        with one_thread():
            assert main(["ablate", *args]) == 0

    return made_once(tmp_path_factory, "ablation", make) / "all"


@pytest.fixture(scope="session")
def many_page(
    pair: tuple[Path, Path], ablation: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The report of one run and of an ablation: five runs."""

    def make(folder: Path) -> None:
        args = [str(pair[1]), str(ablation), "--output", str(folder / "report.html")]
        with one_thread():
            assert main(["report", *args, "--points", "20", "--quiet"]) == 0

    return made_once(tmp_path_factory, "many-page", make) / "report.html"


HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><img src=x onerror='window.hacked = 1'>",
    "\"'><svg onload=window.hacked=1>",
    "<!--<script>{{ 7 * 7 }} {% raw %}",
    "&lt;b&gt; ]]> \\u003c ${window.hacked = 1}",
    "verylongword" * 30,
)


@pytest.fixture(scope="session")
def page(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of both runs."""

    def make(folder: Path) -> None:
        with one_thread():
            Report(runs=pair, output=folder / "report.html", points=20, device="cpu").run()

    return made_once(tmp_path_factory, "page", make) / "report.html"


@pytest.fixture(scope="session")
def hostile_page(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run whose utterances, and whose own name, are markup."""

    def hostile(config: TrainConfig) -> Corpus:
        corpus = load_corpus(config)
        for split in corpus.splits.values():
            for utterance, text in zip(split.utterances, itertools.cycle(HOSTILE), strict=False):
                object.__setattr__(utterance, "text", text)
        return corpus

    def make(folder: Path) -> None:
        run = Path(shutil.copytree(pair[1], folder / "<b>run & 'co'"))
        with one_thread(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("univa.figures.sample.load_corpus", hostile)
            Report(runs=(run,), output=folder / "report.html", points=20, device="cpu").run()

    return made_once(tmp_path_factory, "hostile-page", make) / "report.html"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """Headless Chromium of the system."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium here (apt-get install chromium)")
    with pytest.MonkeyPatch.context() as patch:
        if "HOME" not in os.environ:  # without one Playwright's driver does not start
            patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield from _chromium(sync_api, path)


def _chromium(sync_api: Any, path: str) -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()
