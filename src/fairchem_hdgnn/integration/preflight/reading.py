"""A config as fairchem will read it: includes resolved, overrides applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml
from fairchem.core.common.utils import create_dict_from_args, load_config, merge_dicts

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.integration.command_line import find_config


def read_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config file with its includes.

    Args:
        name: a file, or ``hdgnn:...`` for a shipped one.
        overrides: ``--section.key=value``, as on the command line of training.

    Raises:
        ConfigError: the file or an include is missing or no YAML, two includes contradict, or an override is none.
    """
    path = find_config(name)
    try:
        config, _, conflicts = load_config(path)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    if conflicts:
        raise ConfigError(f"{path}: its includes contradict each other in {', '.join(map(str, conflicts))}")
    for override in overrides:
        if override.count("=") != 1 or not override.startswith("--"):
            raise ConfigError(f"'{override}': write it as KEY=VALUE, e.g. dataset.train.src=data.lmdb")
        try:
            config, _ = merge_dicts(config, create_dict_from_args([override]))
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"'{override}': does not fit the config ({error})") from error
    return config
