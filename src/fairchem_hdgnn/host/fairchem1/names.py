"""The section ``model``: check that fairchem knows its names, make short ones dotted, change keys."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairchem.core.common.registry import registry

import fairchem_hdgnn
from fairchem_hdgnn.errors import ConfigError


def known_model(name: Any, source: str | Path) -> str:
    """Check that a model can be imported, and return its registered or dotted name.

    Args:
        name: name in a config.
        source: file with the config; for the message.

    Raises:
        ConfigError: fairchem cannot find the model.
    """
    name = str(name)
    try:
        registry.get_model_class(name)
    except (RuntimeError, ImportError) as error:
        raise ConfigError(
            f"{source}: its model '{name}' is not registered with fairchem; install the package that provides it, "
            "and write model.name as a dotted path such as fairchem_hdgnn.HDGNN"
        ) from error
    return name


def with_keys(model: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A config's section ``model`` with some keys changed; those of hydra's network are keys of its backbone."""
    if "backbone" in model:
        return {**model, "backbone": {**model["backbone"], **changes}}
    return {**model, **changes}


def dotted_name(name: Any) -> Any:
    """Return ``fairchem_hdgnn.HDGNN`` for ``hdgnn``, and so on; any other name unchanged.

    A checkpoint stores the name in the config. fairchem finds a short name only if the plugin was imported before;
    it imports a dotted one itself.
    """
    registered = registry.mapping["model_name_mapping"].get(name)
    for public_name in fairchem_hdgnn.__all__:
        if registered is getattr(fairchem_hdgnn, public_name):
            return f"fairchem_hdgnn.{public_name}"
    return name


def with_dotted_names(config: dict[str, Any]) -> dict[str, Any]:
    """A copy of a fairchem config in which this plugin's models have their dotted names, hydra's parts included."""
    config = copy.deepcopy(config)
    model = config.get("model", {})
    parts = [(model, "name"), (model.get("backbone", {}), "model")]
    parts += [(head, "module") for head in model.get("heads", {}).values()]
    for part, key in parts:
        if key in part:
            part[key] = dotted_name(part[key])
    return config
