"""Configs of a sweep: every combination of the values listed in a ``--sweep-yml`` file."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from fairchem_hdgnn.errors import ConfigError

Keys = tuple[str, ...]


def sweep(config: dict[str, Any], path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Vary a config like fairchem's ``--sweep-yml`` (fairchem's own reader fails from Python 3.10 on).

    Args:
        config: the config to vary.
        path: YAML with the config's sections and, for each key to vary, a list of values.

    Yields:
        The values of this run, e.g. ``lmax4-num_layers8``, and its config.

    Raises:
        ConfigError: the file is missing or unreadable, or a value is not a list.
    """
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"--sweep-yml: {path}: {' '.join(str(error).split())}") from error
    varied = dict(_lists(settings, (), path))
    for values in itertools.product(*varied.values()):
        run = copy.deepcopy(config)
        for keys, value in zip(varied, values):
            section = run
            for key in keys[:-1]:
                section = section.setdefault(key, {})
            section[keys[-1]] = value
        yield "-".join(f"{keys[-1]}{value}" for keys, value in zip(varied, values)), run


def _lists(settings: Any, keys: Keys, path: Path) -> Iterator[tuple[Keys, list]]:
    if isinstance(settings, dict) and settings:
        for key, value in settings.items():
            yield from _lists(value, (*keys, str(key)), path)
    elif isinstance(settings, list) and settings and keys:
        yield keys, settings
    else:
        raise ConfigError(f"--sweep-yml: {path}: '{'.'.join(keys)}' is not a list of values")
