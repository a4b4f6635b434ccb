"""Valid values and meaning of each configuration key, read with pydantic from a dataclass of keys.

Error messages and the page of all keys (docs/keys.md) use the same words.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from fairchem_hdgnn.errors import ConfigError, nearest

Config = TypeVar("Config")

_INTEGER_WITH_EXPONENT = re.compile(r"([-+]?\d+)[eE]([-+]?\d+)")


@dataclass(frozen=True)
class Key:
    """One configuration key.

    Attributes:
        name: its name in the YAML.
        allowed: its valid values, in words.
        choices: the valid names, if it is a choice.
        required: whether it must be given.
        default: as in the YAML; ``None`` if it is required or derived from other keys.
        meaning: what it does.
    """

    name: str
    allowed: str
    choices: tuple[str, ...]
    required: bool
    default: Any
    meaning: str


@dataclass(frozen=True)
class Fault:
    """A key whose value cannot be used.

    Attributes:
        key: the key.
        value: its value.
    """

    key: Key
    value: Any

    @property
    def hint(self) -> str:
        """What was probably meant; empty if there is no guess."""
        if choice := nearest(str(self.value), self.key.choices):
            return f"did you mean '{choice}'?"
        if isinstance(self.value, str) and (number := _INTEGER_WITH_EXPONENT.fullmatch(self.value)):
            return f"YAML reads {self.value} as a string, write {number[1]}.0e{number[2]}"
        return ""


def validated(kind: type[Config], keys: Mapping[str, Any], owner: str) -> Config:
    """Build the dataclass ``kind``.

    Args:
        kind: a dataclass of :mod:`fairchem_hdgnn.hyperparameters`.
        keys: valid names, and values to check.
        owner: the message starts with it.

    Raises:
        ConfigError: an invalid value, or keys that are incompatible; one line.
    """
    try:
        return _adapter(kind).validate_python(keys)  # type: ignore[arg-type]
    except ValidationError as error:
        for fault in _faults(kind, keys, error):
            hint = f"; {fault.hint}" if fault.hint else ""
            problem = f"'{fault.key.name}' must be {fault.key.allowed}, not {fault.value!r}{hint}"
            raise ConfigError(f"{owner}: {problem}") from None
        # Each value is valid; ``__post_init__`` has refused the combination.
        raise ConfigError(f"{owner}: {error.errors()[0]['ctx']['error']}") from None


def faults(kind: type, keys: Mapping[str, Any]) -> list[Fault]:
    """All keys of the dataclass ``kind`` with invalid values; unknown keys are ignored."""
    try:
        _adapter(kind).validate_python({name: value for name, value in keys.items() if name in keys_of(kind)})
    except ValidationError as error:
        return _faults(kind, keys, error)
    return []


@functools.cache
def keys_of(kind: Any) -> dict[str, Key]:
    """The keys of a dataclass by name."""
    schema = _adapter(kind).json_schema()
    parts, required = schema["properties"], schema.get("required", ())
    return {name: _key(name, part, schema.get("$defs", {}), name in required) for name, part in parts.items()}


@functools.cache
def _adapter(kind: Any) -> TypeAdapter:
    return TypeAdapter(kind)


def _faults(kind: type, keys: Mapping[str, Any], error: ValidationError) -> list[Fault]:
    names = dict.fromkeys(str(one["loc"][0]) for one in error.errors(include_url=False) if one["loc"])
    return [Fault(keys_of(kind)[name], keys.get(name)) for name in names]


def _key(name: str, part: Mapping[str, Any], definitions: Mapping[str, Any], required: bool) -> Key:
    options = [_resolved(option, definitions) for option in part.get("anyOf", [part]) if option.get("type") != "null"]
    choices = tuple(choice for option in options for choice in option.get("enum", ()))
    meanings = [part.get("description"), *(_choices_meaning(option) for option in options if "enum" in option)]
    parts = [*choices, *(_words(option) for option in options if "enum" not in option)]
    allowed = " or ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    meaning = " ".join(" ".join(filter(None, meanings)).split())
    return Key(name, allowed, choices, required, part.get("default"), meaning)


def _resolved(option: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    return definitions[option["$ref"].rpartition("/")[2]] if "$ref" in option else option


def _choices_meaning(option: Mapping[str, Any]) -> str:
    """An enum's docstring without its first line: the meanings of its members."""
    text = option.get("description", "")
    return text.partition("\n\n")[2] or text


def _words(option: Mapping[str, Any]) -> str:
    """A type and its bounds, e.g. ``a whole number from 0 to 10``."""
    if "const" in option:
        return str(option["const"])
    if option["type"] in ("integer", "number"):
        return _number("whole number" if option["type"] == "integer" else "number", option)
    if option["type"] == "array":
        of = option.get("prefixItems", [option.get("items")])[0]["type"]
        plural = {"number": "numbers", "integer": "whole numbers", "string": "strings"}[of]
        return f"a list of {option['maxItems']} {plural}" if "maxItems" in option else f"a list of {plural}"
    return {"boolean": "true or false", "string": "a non-empty string", "object": "keys and values"}[option["type"]]


def _number(noun: str, option: Mapping[str, Any]) -> str:
    low, high, above = (option.get(name) for name in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None:
        return f"a {noun} from {low:g} to {high:g}" if high is not None else f"a {noun} of at least {low:g}"
    if above is not None and high is not None:
        return f"a {noun} above {above:g}, at most {high:g}"
    if above is not None:
        return f"a positive {noun}" if above == 0 else f"a {noun} above {above:g}"
    return f"a finite {noun}"
