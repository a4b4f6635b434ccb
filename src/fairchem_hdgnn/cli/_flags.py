"""Checks of values that several commands share."""

from __future__ import annotations

from collections.abc import Mapping

from fairchem_hdgnn.errors import ConfigError


def require_at_least(least: int, values: Mapping[str, int | None]) -> None:
    """Refuse the first flag whose value is smaller; ``None`` is one that was left out.

    Raises:
        ConfigError: names flag and value.
    """
    for name, value in values.items():
        if value is not None and value < least:
            raise ConfigError(f"{name} {value}: must be at least {least}")
