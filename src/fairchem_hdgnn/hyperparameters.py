"""Configuration keys as dataclass fields that declare their valid values.

A group of keys is a frozen dataclass whose fields are made by the functions below, each followed by a docstring.
:mod:`fairchem_hdgnn.schema` reads types, bounds and docstrings from them with pydantic. The networks also run
without pydantic; values are then not validated.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, ClassVar, TypeVar

from fairchem_hdgnn.errors import ConfigError, suggestion

try:
    from fairchem_hdgnn.schema import validated
except ModuleNotFoundError as error:
    if (error.name or "").split(".")[0] != "pydantic":
        raise

    def validated(kind: type[Config], keys: Mapping[str, Any], owner: str) -> Config:
        """The dataclass with these values, unchecked; names of choices become members of their enum."""
        kinds = typing.get_type_hints(kind)
        return kind(**{name: _member(value, kinds[name]) for name, value in keys.items()})


Config = TypeVar("Config")

REQUIRED: Any = dataclasses.MISSING
"""In place of a default. A default of ``None`` marks keys whose value is derived from other keys when left out."""


class Keys:
    """Base of the dataclasses: configures how pydantic reads them."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False, "use_attribute_docstrings": True}


def integer(default: Any, minimum: int = 1, maximum: int | None = None) -> Any:
    """A whole number in [minimum, maximum]."""
    return _field(default, strict=True, ge=minimum, le=maximum)


def real(default: Any, above: float | None = None, minimum: float | None = None, maximum: float | None = None) -> Any:
    """A finite number, larger than ``above``, in [minimum, maximum]."""
    return _field(default, strict=True, gt=above, ge=minimum, le=maximum)


def switch(default: Any) -> Any:
    """``true`` or ``false``."""
    return _field(default, strict=True)


def text(default: Any) -> Any:
    """A non-empty string."""
    return _field(default, strict=True, min_length=1)


def other(default: Any) -> Any:
    """A value of the annotated type: a string enum, a mapping, a union."""
    return _field(default)


def _field(default: Any, **constraints: Any) -> Any:
    return dataclasses.field(
        default=default, metadata={name: value for name, value in constraints.items() if value is not None}
    )


def key_names(kind: type) -> list[str]:
    """Names of the keys of a dataclass made with this module."""
    return [field.name for field in dataclasses.fields(kind)]


def from_keys(kind: type[Config], keys: Mapping[str, Any], owner: str, other_keys: Iterable[str] = ()) -> Config:
    """Build the dataclass ``kind`` from configuration keys.

    Args:
        kind: a dataclass whose fields are made by this module.
        keys: the configuration; ``null`` in YAML is the same as leaving a key out.
        owner: what the configuration is for; error messages start with it.
        other_keys: valid keys of the same section that belong elsewhere, for the "did you mean" of a wrong key.

    Raises:
        ConfigError: an unknown key (with the nearest valid one) or an invalid value, in one line that starts with
            ``owner``.
    """
    names = key_names(kind)
    for name in keys:
        if name not in names:
            raise ConfigError(f"{owner}: unknown key '{name}'{suggestion(str(name), [*names, *other_keys])}")
    return validated(kind, {name: value for name, value in keys.items() if value is not None}, owner)


def _member(value: Any, kind: Any) -> Any:
    enums = [
        option for option in (kind, *typing.get_args(kind)) if isinstance(option, type) and issubclass(option, Enum)
    ]
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return enums[0](value) if enums else value
