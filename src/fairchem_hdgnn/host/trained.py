"""A trained network independent of the fairchem that trained it: keys, weights, normalisers and references."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host import models

OUTPUTS = ("energy", "forces")
"""Outputs of a network; energies always."""

ARCHITECTURES = {"HDGNN": models.HDGNN, "hdgnn": models.HDGNN, "ESCN": models.ESCN, "escn_so2": models.ESCN}
"""Name in configs, without the package -> architecture."""


class Scale(NamedTuple):
    """Parameters of a normaliser: label = mean + rmsd * output, eV or eV/Å."""

    mean: float
    rmsd: float

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> Scale:
        """Read a normaliser's state in a checkpoint of fairchem-core 1.10; older ones use ``std`` for ``rmsd``."""
        return cls(float(state["mean"]), float(state["rmsd"] if "rmsd" in state else state["std"]))


IDENTITY = Scale(0.0, 1.0)
"""That of an output without a normaliser."""


class HDGNN(models.PlainModel):
    """HDGNN as a model that takes batches, without fairchem."""

    architecture = models.HDGNN


class ESCN(models.PlainModel):
    """eSCN as a model that takes batches, without fairchem."""

    architecture = models.ESCN


@dataclass(frozen=True)
class TrainedNetwork:
    """Everything that predictions need.

    Attributes:
        architecture: ``models.HDGNN`` or ``models.ESCN``.
        keys: keys of a plain model, without ``output_name`` and ``vector_name``, with ``regress_forces``.
        weights: weights under the names of a plain model, ``network.*``; empty: random ones.
        scales: normaliser of each output that has one.
        references: energy of each element by atomic number, eV, for each output that has them.
        averaged: whether the weights are the moving averages (EMA).
        source: the file, for messages.
        dataset: how records are read: ``key_mapping`` and ``src``, if the file has them.
        batch_size: batch size in evaluation, if the file has one.
        target: name of the energy in the file, such as ``gap``.
    """

    architecture: models.Architecture
    keys: dict[str, Any]
    weights: dict[str, Tensor]
    scales: dict[str, Scale]
    references: dict[str, Tensor]
    averaged: bool
    source: Path
    dataset: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    target: str = "energy"

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return OUTPUTS if self.keys["regress_forces"] else OUTPUTS[:1]

    @property
    def name(self) -> str:
        """Name of the model, without the package."""
        return "HDGNN" if self.architecture is models.HDGNN else "ESCN"

    def with_keys(self, changes: Mapping[str, Any]) -> TrainedNetwork:
        """The same weights with some keys changed."""
        return replace(self, keys={**self.keys, **changes})

    def build(self) -> models.PlainModel:
        """Build the model with its weights, float32, in evaluation mode.

        Raises:
            ConfigError: a key is unknown or has an invalid value.
            DataError: the weights do not match the keys.
        """
        model = (HDGNN if self.architecture is models.HDGNN else ESCN)(**self.keys)
        try:
            if self.weights:
                model.load_state_dict(self.weights)
        except RuntimeError as error:
            text = " ".join(str(error).split())[:300]
            raise DataError(f"{self.source}: its weights do not match its model: {text}") from error
        return model.eval()

    def in_units(self, outputs: Mapping[str, Tensor], batch: Any) -> dict[str, Tensor]:
        """Convert outputs of the model for ``batch`` to eV and eV/Å, and add the element references."""
        found = {}
        for name, values in outputs.items():
            scale = self.scales.get(name, IDENTITY)
            scaled = values * torch.tensor(scale.rmsd).to(values) + torch.tensor(scale.mean).to(values)
            if name in self.references:
                of_atoms = self.references[name].to(scaled)[batch.atomic_numbers.long()]
                scaled = scaled.index_add(0, batch.batch, of_atoms)
            found[name] = scaled
        return found


def architecture_of(name: Any, source: str | Path, ending: str = "") -> models.Architecture:
    """The architecture that a config names: a dotted path into this package, or a short name of fairchem 1.10.

    Args:
        name: name of a model, or of one of its parts.
        source: the file, for the message.
        ending: ending of the part's name: ``Backbone``.

    Raises:
        ConfigError: it is not a network of this package.
    """
    short = str(name).rpartition(".")[2] if str(name).startswith("fairchem_hdgnn.") else str(name)
    for known, architecture in ARCHITECTURES.items():
        if short in (known + ending, f"{known}_{ending.lower()}" if ending else known):
            return architecture
    raise ConfigError(
        f"{source}: its model '{name}' is not one of this package (HDGNN, ESCN); "
        "open it with the fairchem-core that trained it"
    )


def head_names(heads: Mapping[str, Any], source: str | Path) -> dict[str, str]:
    """Output -> name of its head. Displacement heads, which are auxiliary in training, are ignored.

    Raises:
        ConfigError: there is no energy head of this package, or an output has two heads.
    """
    found: dict[str, str] = {}
    for name, head in heads.items():
        module = str(head.get("module"))
        kind = next(
            (output for output in OUTPUTS if module.lower().replace("_", "").endswith(f"{output.rstrip('s')}head")),
            None,
        )
        if kind is None or not module.rpartition(".")[2].startswith(tuple(ARCHITECTURES)) or "displacement" in name:
            continue
        if kind in found:
            raise ConfigError(f"{source}: has two heads for '{kind}', {found[kind]} and {name}; only one can be used")
        found[kind] = name
    if "energy" not in found:
        raise ConfigError(f"{source}: has heads {', '.join(heads) or 'none'}, but none for 'energy'")
    return found


def plain_weights(weights: Mapping[str, Tensor], heads: Mapping[str, str]) -> dict[str, Tensor]:
    """Weights of a backbone with heads under the names of a plain model, without those of other heads."""
    prefixes = {"backbone.backbone.": "network.backbone."}
    for output, name in heads.items():
        prefixes[f"output_heads.{name}.readout."] = f"network.{'energy' if output == 'energy' else 'force'}_head."
    return dict(_renamed(weights, prefixes))


def hydra_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a plain model under the names of a backbone with heads ``energy`` and ``forces``."""
    prefixes = {
        "network.backbone.": "backbone.backbone.",
        "network.energy_head.": "output_heads.energy.readout.",
        "network.force_head.": "output_heads.forces.readout.",
    }
    return dict(_renamed(weights, prefixes))


def _renamed(weights: Mapping[str, Tensor], prefixes: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in weights.items():
        for before, after in prefixes.items():
            if name.startswith(before):
                yield after + name[len(before) :], tensor
