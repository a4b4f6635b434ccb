"""Weights of a trained network for the start of another training: which fit, which stay fresh, what differs."""

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
"""Parts of a plain model, by which parameters are known here."""

DECIDED_ANEW = {*NOT_FOR_NETWORKS, "regress_forces", "otf_graph", "use_pbc", "readout_init", "weight_init"}
"""Keys of a model that may differ without a word: what they change is not in the weights that are taken over."""


@dataclass(frozen=True)
class StartingWeights:
    """What a training starts from.

    Attributes:
        weights: by the names of the new model's parameters.
        fresh: names of its parameters that the file has no values for.
        differences: ``key: value there, value here`` of the model's keys.
    """

    weights: dict[str, Tensor]
    fresh: list[str]
    differences: list[str]

    def copy_into(self, model: nn.Module) -> None:
        """Put the weights into their places in the new model."""
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, weight in self.weights.items():
                parameters[name].copy_(weight)

    def announce(self, trained: TrainedNetwork) -> None:
        """Log what was taken from ``trained``, what is fresh, and warn of what differs."""
        which = "averaged weights (EMA)" if trained.averaged else "weights"
        logger.info("Fine-tuning: %d %s from %s.", len(self.weights), which, trained.source)
        if self.fresh:
            logger.info("Fine-tuning: fresh are %s.", ", ".join(self.fresh))
        if self.differences:
            logger.warning("Fine-tuning: this model differs from that in the file: %s.", "; ".join(self.differences))


def starting_weights(
    model: nn.Module, keys: Mapping[str, Any], trained: TrainedNetwork, *, keep_heads: bool
) -> StartingWeights:
    """The weights of ``trained`` for ``model``: all layers, and the heads that both have if they are kept.

    Args:
        model: of this package, plain or a backbone with heads.
        keys: those of the plain model or of the backbone.
        trained: what was read from a checkpoint.
        keep_heads: whether its heads are taken over too.

    Raises:
        ConfigError: ``trained`` has another architecture.
        DataError: a layer is missing, of another shape, or one too many.
    """
    architecture = architecture_of(model)
    if architecture is not trained.architecture:
        raise ConfigError(
            f"{trained.source}: holds {trained.architecture.name}, but model.name is {architecture.name}; start from "
            "one of the same kind"
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


def architecture_of(model: nn.Module) -> models.Architecture:
    """That of a model of this package, plain or a backbone with heads.

    Raises:
        ConfigError: it is another package's.
    """
    part = getattr(model, "backbone", model)
    if not isinstance(part, (models.PlainModel, models.BackboneModel)):
        raise ConfigError(
            f"model.name: {type(part).__name__} is not a model of this package; --init-from and optim.fine_tuning are "
            "for HDGNN and ESCN"
        )
    return part.architecture


def plain_names(model: nn.Module) -> dict[str, str]:
    """Name of each parameter -> the one that it has, or would have, in a plain model that predicts forces."""
    return {name: plain_name(name, model) for name, _ in model.named_parameters()}


def plain_name(name: str, model: nn.Module) -> str:
    """The name of a parameter or buffer in a plain model that predicts forces.

    Vectors that are no forces, such as Noisy Nodes' displacements, keep a name of their own.
    """
    if name.startswith("backbone.backbone."):
        return BACKBONE + name.removeprefix("backbone.backbone.")
    if name.startswith("output_heads."):
        _, head, rest = name.split(".", 2)
        module = model.get_submodule(f"output_heads.{head}")
        if isinstance(module, models.EnergyModel):
            return ENERGY_HEAD + rest.removeprefix("readout.")
        if getattr(module, "vector_name", None) == "forces":
            return FORCE_HEAD + rest.removeprefix("readout.")
        return name
    if name.startswith(FORCE_HEAD) and getattr(model, "vector_name", "forces") != "forces":
        return f"{model.vector_name}.{name}"
    return name


def key_differences(trained: TrainedNetwork, keys: Mapping[str, Any]) -> list[str]:
    """``key: value there, value here``, with defaults and presets resolved."""
    there, here = (_resolved(given, trained.architecture) for given in (trained.keys, keys))
    return [
        f"{name}: {there[name]} there, {here[name]} here"
        for name in there
        if name not in DECIDED_ANEW and there[name] != here[name]
    ]


def _resolved(keys: Mapping[str, Any], architecture: models.Architecture) -> dict[str, Any]:
    settings, config = models.read_keys(dict(keys), architecture)
    return {name: getattr(value, "value", value) for part in (settings, config) for name, value in asdict(part).items()}


def _misfit(
    source: Path, name: str, there: list[int] | None, here: list[int] | None, differences: list[str]
) -> DataError:
    sizes = f"{name} is {there or 'absent'} there and {here or 'absent'} here"
    reasons = "; ".join(f"model.{difference}" for difference in differences[:5]) or sizes
    return DataError(f"{source}: its weights do not fit this config's model ({reasons}); give the model its keys")
