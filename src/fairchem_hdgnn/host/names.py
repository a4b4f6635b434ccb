"""Short model names turned into the dotted ones, which work in every process without any set-up."""

from __future__ import annotations

import copy
from typing import Any

from fairchem.core.common.registry import registry

import fairchem_hdgnn


def dotted_name(name: Any) -> Any:
    """``fairchem_hdgnn.HDGNN`` for ``hdgnn``, and so on; any other name as it is.

    A checkpoint keeps the name that the config had. fairchem finds a short one only where the plugin was imported
    before; a dotted one it imports itself.
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
