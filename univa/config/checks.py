"""Checks of config dataclasses: a wrong value is refused by a message that names the field."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from univa.errors import UserError

__all__ = ["at_least", "check", "check_types"]


def check(holds: bool, name: str, value: object, rule: str) -> None:
    """UserError where a value is not allowed, naming its option."""
    if not holds:
        raise UserError(f"--{name.replace('_', '-')}: {value!r} is not allowed; it must be {rule}")


def check_types(section: str, config: Any) -> None:
    """Check what a type says: choices, whole and finite numbers. A file may hold anything."""
    hints = get_type_hints(type(config))
    for item in fields(config):
        value, hint = getattr(config, item.name), hints[item.name]
        if is_dataclass(hint):
            continue
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_is(value, kind) for kind in kinds):
            rule = " or ".join(_RULES.get(kind) or _choices(kind) for kind in kinds)
            check(False, f"{section}{item.name}", value, rule)


_RULES: dict[Any, str] = {
    bool: "true or false",
    float: "a finite number",
    int: "a whole number",
    str: "a text",
    type(None): "none",
}


def _choices(kind: Any) -> str:
    return "one of " + ", ".join(get_args(kind))


def _is(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind is float:
        return type(value) in (int, float) and math.isfinite(cast(float, value))
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def at_least(section: str, config: object, low: float, *names: str) -> None:
    """UserError where one of the named fields is below `low`."""
    for name in names:
        value = getattr(config, name)
        check(value >= low, f"{section}{name}", value, f"at least {low}")
