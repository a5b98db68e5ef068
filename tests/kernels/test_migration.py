"""Every snippet and every import of docs/migration.md runs."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^##+ (.+?)\n(.*?)(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL))
SNIPPETS = {
    title: re.findall(r"```python\n(.*?)```", text, re.DOTALL) for title, text in SECTIONS.items()
}
IMPORTS = re.findall(r"`from (\S+) import (\w+)`", PAGE)


@pytest.mark.parametrize("title", [title for title, code in SNIPPETS.items() if code])
def test_snippets(title):
    # Those of a section continue each other.
    exec(compile("\n".join(SNIPPETS[title]), f"migration.md: {title}", "exec"), {})


def test_every_snippet_is_in_a_section():
    assert sum(map(len, SNIPPETS.values())) == PAGE.count("```python") >= 8


@pytest.mark.parametrize(("module", "name"), IMPORTS)
def test_imports(module, name):
    if module == "losses":  # no package: the file is copied into a project
        return
    if module.startswith("pytorch_metric_learning"):
        pytest.importorskip("pytorch_metric_learning")
    assert hasattr(importlib.import_module(module), name)
