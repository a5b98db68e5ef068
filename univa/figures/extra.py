"""The packages of the extra "figures", which are imported when they are needed only."""

from __future__ import annotations

import importlib

from univa.errors import UserError

__all__ = ["require_figures"]


def require_figures() -> None:
    """Check that drawing is possible, before any work.

    Raises:
        UserError: a package is missing.
    """
    missing = []
    for module, package in (
        ("matplotlib", "matplotlib"),
        ("sklearn", "scikit-learn"),
        ("jinja2", "jinja2"),
    ):
        try:
            importlib.import_module(module)
        except ImportError:
            missing.append(package)
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not installed, which figures and reports need; "
            "pip install 'univa[figures]'"
        )
