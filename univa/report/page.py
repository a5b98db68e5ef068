"""Template, style sheet and script into one file that needs no other."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from univa.figures.style import shape_of

__all__ = ["render"]

_TEMPLATES = Path(__file__).parent / "templates"


def render(content: dict[str, Any]) -> str:
    """The page.

    Whatever `content` holds is escaped. Should something slip through all the same, the page's own
    policy runs no script but the one of this package and loads nothing.

    Args:
        content: variables of `templates/report.html`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["signed"] = lambda value: f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
    environment.filters["shape"] = shape_of
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html").render(
        content,
        # These are files of this package.
        style=Markup((_TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=(
            f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
            "base-uri 'none'; form-action 'none'"
        ),
    )
