"""Typed hyper-parameters: dataclass fields that check their own YAML values.

A model's configuration is a frozen dataclass whose fields are made by the functions below. Its keys are the
YAML keys; :func:`from_keys` refuses unknown keys (naming the nearest valid one) and wrong values with one line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

from fairchem_hdgnn.errors import ConfigError, nearest

Config = TypeVar("Config")


def _field(default: Any, check: Callable[[Any], Any]) -> Any:
    return dataclasses.field(default=default, metadata={"check": check})


def integer(default: int | None, minimum: int = 1, maximum: int | None = None) -> Any:
    """A whole number in [minimum, maximum]; ``None`` is allowed where it is the default."""

    def check(value: Any) -> int | None:
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"must be a whole number, not {value!r}")
        if value < minimum or (maximum is not None and value > maximum):
            bound = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
            raise ConfigError(f"must be {bound}, not {value}")
        return value

    return _field(default, check)


def real(default: float | None, above: float | None = None, minimum: float | None = None) -> Any:
    """A finite number, larger than ``above`` or at least ``minimum`` if given."""

    def check(value: Any) -> float | None:
        if value is None and default is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigError(f"must be a finite number, not {value!r}")
        if above is not None and value <= above:
            raise ConfigError(f"must be larger than {above:g}, not {value:g}")
        if minimum is not None and value < minimum:
            raise ConfigError(f"must be at least {minimum:g}, not {value:g}")
        return float(value)

    return _field(default, check)


def switch(default: bool | None) -> Any:
    """``true`` or ``false``."""

    def check(value: Any) -> bool | None:
        if isinstance(value, bool) or (value is None and default is None):
            return value
        raise ConfigError(f"must be true or false, not {value!r}")

    return _field(default, check)


def choice(kind: type[Enum], default: Enum | None) -> Any:
    """One value of a string enum."""

    def check(value: Any) -> Enum | None:
        if value is None and default is None:
            return None
        if value is False and "off" in [member.value for member in kind]:
            value = "off"  # YAML reads a bare off as false
        try:
            return kind(value)
        except ValueError:
            valid = [member.value for member in kind]
            raise ConfigError(f"is {value!r}, not one of {', '.join(valid)}{_hint(value, valid)}") from None

    return _field(default, check)


def _hint(value: Any, valid: list[str]) -> str:
    hint = nearest(str(value), valid)
    return hint if "did you mean" in hint else ""


def text(default: str) -> Any:
    """A non-empty string."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise ConfigError(f"must be a non-empty string, not {value!r}")
        return value

    return _field(default, check)


def checked(default: Any, check: Callable[[Any], Any]) -> Any:
    """A value that ``check`` returns in its final form, raising ``ConfigError`` for a wrong one."""
    return _field(default, check)


def from_keys(kind: type[Config], keys: Mapping[str, Any], owner: str, other_keys: Iterable[str] = ()) -> Config:
    """Build the dataclass ``kind`` from configuration keys.

    Args:
        kind: a dataclass whose fields are made by this module.
        keys: the configuration.
        owner: what the configuration is for; opens error messages.
        other_keys: keys that are valid beside these but belong elsewhere, for the "did you mean" of a wrong key.

    Raises:
        ConfigError: an unknown key (with the nearest valid one) or a value its field refuses, in one line that
            starts with ``owner``.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in keys:
        if name not in fields:
            raise ConfigError(f"{owner}: unknown key '{name}'{nearest(str(name), [*fields, *other_keys])}")
    values = {}
    for name, value in keys.items():
        try:
            checked_value = fields[name].metadata["check"](value)
        except ConfigError as error:
            raise ConfigError(f"{owner}: '{name}' {error}") from None
        # ``null`` in YAML is as good as leaving the key out.
        if checked_value is not None:
            values[name] = checked_value
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{owner}: {error}") from None
