"""Parsing and validation of flag values shared by several commands: paths, minimum values, names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.files import expanded


def path(text: str) -> Path:
    """Return a path with ``~`` and ``$VARIABLE`` expanded, also where the shell does not: ``--data=~/oc20``.

    Raises:
        argparse.ArgumentTypeError: a variable is not set.
    """
    try:
        return Path(expanded(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def require_at_least(least: int, values: Mapping[str, int | None]) -> None:
    """Refuse the first flag whose value is below ``least``; ``None`` means that the flag was not given.

    Raises:
        ConfigError: names flag and value.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: must be at least {least}")


def require_names(values: Mapping[str, str | None]) -> None:
    """Refuse the first flag whose value cannot be used in a batch script and as a folder name; ``None``: not given.

    Raises:
        ConfigError: names flag and value.
    """
    for flag, value in values.items():
        if value and (re.fullmatch(r"[\w.,:+@%=-]+", value) is None or value in {".", ".."} or value[0] == "-"):
            raise ConfigError(
                f"{flag} {value!r}: use only letters, digits and . , : + @ % = _ - (not first), no spaces or slashes"
            )
