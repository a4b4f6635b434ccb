"""Find config files, and read them with includes and overrides merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fairchem.core.common.utils import create_dict_from_args, load_config, merge_dicts

from fairchem_hdgnn.errors import ConfigError, suggestion
from fairchem_hdgnn.files import expanded
from fairchem_hdgnn.host.fairchem1.config_forms import by_split, prepared
from fairchem_hdgnn.host.shipped import shipped_configs

PACKAGED = "hdgnn:"
"""Prefix that names one of the shipped configs, e.g. ``hdgnn:oc20/is2re/all/hdgnn.yml``."""


def find_config(name: str) -> Path:
    """Find the config file with this name.

    Args:
        name: a path, or ``hdgnn:...`` for a shipped config.

    Raises:
        ConfigError: it does not exist; for a shipped config, suggests the nearest one.
    """
    if not name.startswith(PACKAGED):
        name = expanded(name)
        if not Path(name).is_file():
            raise ConfigError(f"no file '{name}'; shipped configs are {PACKAGED}oc20/..., in any directory")
        return Path(name)
    folder = shipped_configs()
    path = folder / name[len(PACKAGED) :]
    if not path.is_file():
        shipped = [
            f"{PACKAGED}{file.relative_to(folder).as_posix()}"
            for file in folder.rglob("*.yml")
            if folder / "fairchem2" not in file.parents
        ]
        raise ConfigError(f"no shipped config '{name}'{suggestion(name, shipped)}")
    return path


def splits_of(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of the splits that have a source; as in fairchem, val and test inherit those of train.

    Args:
        config: a fairchem config.
    """
    section = by_split(config.get("dataset"))
    train = section.get("train") or {}
    splits = {}
    for name, settings in section.items():
        if isinstance(settings, dict) and "src" in settings:
            inherited = train if name != "train" and settings.get("use_train_settings", True) else {}
            splits[name] = {**inherited, **settings}
    return splits


def sources(settings: Mapping[str, Any]) -> list[Path]:
    """The paths that ``src`` of a split names."""
    value = settings.get("src") or []
    return [Path(source) for source in ([value] if isinstance(value, str) else value)]


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse overrides that are not of the form ``--section.key=value``.

    Raises:
        ConfigError: names the override.
    """
    for override in overrides:
        if not override.startswith("--") or override.count("=") != 1:
            raise ConfigError(f"'{override}': not a flag, nor an override of the form --section.key=value")


def read_config(name: str | Path, overrides: Sequence[str] = (), sections: Sequence[str] = ()) -> dict[str, Any]:
    """Read a config as fairchem does: included files first, then the file itself, then the overrides.

    The result is passed through :func:`config_forms.prepared`.

    Args:
        name: as for :func:`find_config`.
        overrides: ``--section.key=value``, as on the command line of training.
        sections: sections that the config must have.

    Raises:
        ConfigError: the file, an include or a section is missing, the file is not YAML, two includes conflict, or an
            override is invalid.
    """
    path = find_config(str(name))
    try:
        config, _, conflicts = load_config(path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file, so not a config; is it a data set or a checkpoint?") from error
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        if not path.read_text().strip():
            raise ConfigError(f"{path}: is empty; see configs/ for examples") from error
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    if conflicts:
        raise ConfigError(f"{path}: its includes conflict in {', '.join(map(str, conflicts))}")
    check_overrides(overrides)
    for override in overrides:
        try:
            config, _ = merge_dicts(config, create_dict_from_args([override]))
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"'{override}': cannot be applied to the config ({error})") from error
    config = prepared(config)
    for section in sections:
        if not config.get(section):
            raise ConfigError(f"{path}: section '{section}' is missing or empty")
    return config
