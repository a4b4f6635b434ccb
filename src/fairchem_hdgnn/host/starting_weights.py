"""Weights of a trained network as the start of another training: which match, which stay fresh, what differs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host import models
from fairchem_hdgnn.host.generations import NOT_FOR_NETWORKS
from fairchem_hdgnn.host.trained import TrainedNetwork

logger = logging.getLogger(__name__)

BACKBONE, ENERGY_HEAD, FORCE_HEAD = "network.backbone.", "network.energy_head.", "network.force_head."
"""Prefixes of a plain model's parameters, which name parameters in this module."""

HEADS = {"energy": ENERGY_HEAD, "forces": FORCE_HEAD}
"""Output -> prefix of its head."""

MAY_DIFFER = {*NOT_FOR_NETWORKS, "regress_forces", "otf_graph", "use_pbc", "readout_init", "weight_init"}
"""Keys of a model that may differ without a warning: they do not affect the loaded weights."""


@dataclass(frozen=True)
class StartingWeights:
    """The weights that a training starts from.

    Attributes:
        weights: weights under the names of the new model's parameters.
        fresh: names of its parameters that are not loaded from the file.
        differences: ``key: value in the file, value in the config`` of the model's keys.
    """

    weights: dict[str, Tensor]
    fresh: list[str]
    differences: list[str]

    def copy_into(self, model: nn.Module) -> None:
        """Copy the weights into the new model."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                parameters[name].copy_(weight)

    def announce(self, trained: TrainedNetwork) -> None:
        """Log what was loaded from ``trained`` and what is fresh, and warn about differences."""
        which = "averaged weights (EMA)" if trained.averaged else "weights"
        logger.info("Fine-tuning: %d %s from %s.", len(self.weights), which, trained.source)
        if self.fresh:
            logger.info("Fine-tuning: not loaded, freshly initialised: %s.", ", ".join(self.fresh))
        if self.differences:
            logger.warning("Fine-tuning: this model differs from the one in the file: %s.", "; ".join(self.differences))


def starting_weights(
    model: nn.Module, keys: Mapping[str, Any], trained: TrainedNetwork, *, keep_heads: bool
) -> StartingWeights:
    """Select the weights of ``trained`` for ``model``: all layers and, if kept, the heads that both have.

    Args:
        model: a model of this package, plain or a backbone with heads.
        keys: keys of the plain model or of the backbone.
        trained: network read from a checkpoint.
        keep_heads: whether to load its heads too.

    Raises:
        ConfigError: ``trained`` has another architecture.
        DataError: a layer is missing, superfluous or of another shape.
    """
    architecture = architecture_of_model(model)
    if architecture is not trained.architecture:
        raise ConfigError(
            f"{trained.source}: contains {trained.architecture.name}, but model.name is {architecture.name}; start "
            "from a checkpoint of the same architecture"
        )
    differences = key_differences(trained, keys)
    names = plain_names(model)
    wanted = {plain: own for own, plain in names.items() if keep_heads or plain.startswith(BACKBONE)}
    shapes = {plain: list(weight.shape) for plain, weight in trained.weights.items()}
    parameters = dict(model.named_parameters())
    for plain, own in wanted.items():
        there, here = shapes.get(plain), list(parameters[own].shape)
        if there != here and (there is not None or plain.startswith(BACKBONE)):
            raise _misfit(trained.source, plain, there, here, differences)
    buffers = {plain_name(name, model) for name, _ in model.named_buffers()}
    for plain, shape in shapes.items():
        known = plain in names.values() or plain in buffers or plain.endswith(".frames.draws")
        if plain.startswith(BACKBONE) and not known:
            raise _misfit(trained.source, plain, shape, None, differences)
    weights = {own: trained.weights[plain] for plain, own in wanted.items() if plain in shapes}
    return StartingWeights(weights, [own for own in names if own not in weights], differences)


def architecture_of_model(model: nn.Module) -> models.Architecture:
    """The architecture of a model of this package, plain or a backbone with heads.

    Raises:
        ConfigError: the model belongs to another package.
    """
    part = getattr(model, "backbone", model)
    if not isinstance(part, (models.PlainModel, models.BackboneModel)):
        raise ConfigError(
            f"model.name: {type(part).__name__} is not a model of this package; --init-from and optim.fine_tuning "
            "support HDGNN and ESCN only"
        )
    return part.architecture


def plain_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter -> its name in a plain model that predicts forces."""
    return {name: plain_name(name, model) for name, _ in model.named_parameters()}


def plain_name(name: str, model: nn.Module) -> str:
    """The name of a parameter or buffer in a plain model that predicts forces.

    Vectors other than forces, such as Noisy Nodes' displacements, keep their own name.
    """
    if name.startswith("backbone.backbone."):
        return BACKBONE + name.removeprefix("backbone.backbone.")
    if name.startswith("output_heads."):
        _, head, rest = name.split(".", 2)
        output = output_of(model.get_submodule(f"output_heads.{head}"))
        return name if output is None else HEADS[output] + rest.removeprefix("readout.")
    if name.startswith(FORCE_HEAD) and getattr(model, "vector_name", "forces") != "forces":
        return f"{model.vector_name}.{name}"
    return name


def output_of(head: nn.Module) -> str | None:
    """The output of a plain model that a head predicts; ``None`` for vectors other than forces."""
    if isinstance(head, models.EnergyModel):
        return "energy"
    return "forces" if getattr(head, "vector_name", None) == "forces" else None


def key_differences(trained: TrainedNetwork, keys: Mapping[str, Any]) -> list[str]:
    """``key: value in the file, value in the config``, with defaults and presets resolved."""
    there, here = (_resolved(given, trained.architecture) for given in (trained.keys, keys))
    return [
        f"{name}: {there[name]} in the file, {here[name]} in the config"
        for name in there
        if name not in MAY_DIFFER and there[name] != here[name]
    ]


def _resolved(keys: Mapping[str, Any], architecture: models.Architecture) -> dict[str, Any]:
    settings, config = models.read_keys(dict(keys), architecture)
    return {name: getattr(value, "value", value) for part in (settings, config) for name, value in asdict(part).items()}


def _misfit(
    source: Path, name: str, there: list[int] | None, here: list[int] | None, differences: list[str]
) -> DataError:
    sizes = f"{name} is {there or 'absent'} in the file, {here or 'absent'} in the model"
    reasons = "; ".join(f"model.{difference}" for difference in differences[:5]) or sizes
    return DataError(f"{source}: its weights do not match this config's model ({reasons}); use the file's model keys")
