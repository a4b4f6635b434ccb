"""Configs of either host as plain values, so that they can be compared."""

from __future__ import annotations

from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from fairchem.core._cli import get_hydra_config_from_yaml
from omegaconf import OmegaConf

CONFIGS = Path(__file__).parents[2] / "configs"
IS2RE = CONFIGS / "fairchem2" / "oc20" / "is2re"


@cache
def composed(config: Path, *overrides: str) -> dict[str, Any]:
    """A config as stock ``fairchem -c`` composes it, on the CPU; not to be changed, since it is made once."""
    found = get_hydra_config_from_yaml(str(config), ["job.device_type=CPU", *overrides])
    return OmegaConf.to_container(found)


def with_includes(config: Path) -> dict[str, Any]:
    """A config of fairchem-core 1.10 with what it includes, later values over earlier ones."""
    own = yaml.safe_load(config.read_text())
    merged: dict[str, Any] = {}
    for include in own.pop("includes", []):
        merged = _over(merged, with_includes((config.parent / include).resolve()))
    return _over(merged, own)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = {**below}
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = _over(below[key], value) if both else value
    return merged


def header(config: Path) -> str:
    """The comment that a config begins with."""
    return "\n".join(takewhile(lambda line: line.startswith("#"), config.read_text().splitlines()))
