"""Values of flags that several commands share: paths, and numbers that must not be too small."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.files import expanded


def path(text: str) -> Path:
    """A path with ``~`` and ``$VARIABLE`` resolved, also where the shell does not: ``--data=~/oc20``.

    Raises:
        argparse.ArgumentTypeError: a variable is not set.
    """
    try:
        return Path(expanded(text))
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def require_at_least(least: int, values: Mapping[str, int | None]) -> None:
    """Refuse the first flag whose value is smaller; ``None`` is one that was left out.

    Raises:
        ConfigError: names flag and value.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: must be at least {least}")


def require_names(values: Mapping[str, str | None]) -> None:
    """Refuse the first flag whose value cannot be a name in a batch script and of a folder; ``None`` was left out.

    Raises:
        ConfigError: names flag and value.
    """
    for flag, value in values.items():
        if value and (re.fullmatch(r"[\w.,:+@%=-]+", value) is None or value in {".", ".."} or value[0] == "-"):
            raise ConfigError(f"{flag} {value!r}: takes letters, digits and . , : + @ % = _ -, no spaces or slashes")
