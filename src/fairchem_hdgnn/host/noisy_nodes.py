"""Noisy Nodes for IS2RE: an auxiliary task that teaches a model the displacement to the relaxed positions.

During training some structures are interpolated between the initial and the relaxed positions and given noise, and a
per-atom head predicts the remaining displacement (Godwin et al., ICLR 2022; with interpolated positions as in
Equiformer, Liao & Smidt, ICLR 2023).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch_geometric.data import Data

from fairchem_hdgnn.data.periodicity import completed_cells, fractional, lattice_vectors, periodic_directions
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hyperparameters import Keys, from_keys, real

TRANSFORM = "noisy_nodes"
TARGET = "displacement"
"""Remaining displacement to the relaxed positions, Å, per atom."""


@dataclass(frozen=True)
class NoisyNodes(Keys):
    """Settings of the noise."""

    probability: float = real(0.5, minimum=0.0, maximum=1.0)
    """Probability that a structure is moved."""

    standard_deviation: float = real(0.3, minimum=0.0)
    """Standard deviation of the Gaussian noise on each coordinate, Å."""

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> NoisyNodes | None:
        """The settings in a trainer's config, which has the training data's settings under ``dataset``.

        Returns:
            ``None`` if the transforms do not include ``noisy_nodes``.

        Raises:
            ConfigError: an unknown key, an invalid value, or a model that uses the records' stored edges.
        """
        transforms = config["dataset"].get("transforms") or {}
        if TRANSFORM not in transforms:
            return None
        found = from_keys(cls, transforms[TRANSFORM] or {}, f"dataset.train.transforms.{TRANSFORM}")
        model, key = config["model"], "model.otf_graph"
        if "backbone" in model:
            model, key = model["backbone"], "model.backbone.otf_graph"
        if not model.get("otf_graph", False):
            raise ConfigError(f"{key}: noisy_nodes moves atoms, so edges must be built on the fly; set it to true")
        return found

    def move(self, batch: Any, generator: torch.Generator | None = None) -> None:
        """Move some structures of a batch: their free atoms with tag 1 or 2, each by its own random fraction.

        ``pos`` becomes ``t pos + (1 - t) pos_relaxed + noise`` with t uniform in [0, 1], and ``displacement`` the
        remaining displacement. Random numbers are drawn on the CPU, whatever the device, from ``generator`` or, by
        default, torch's global generator.
        """
        num_atoms, device = len(batch.pos), batch.pos.device
        chosen = torch.rand(len(batch.natoms), generator=generator) < self.probability
        travelled = torch.rand(num_atoms, 1, generator=generator)
        noise = self.standard_deviation * torch.randn(num_atoms, 3, generator=generator)
        moved = chosen.to(device)[batch.batch] & (batch.tags > 0) & (batch.fixed == 0)
        step = travelled.to(device) * batch[TARGET] + noise.to(device)
        step = torch.where(moved.unsqueeze(1), step, torch.zeros_like(step))
        batch.pos = batch.pos + step
        batch[TARGET] = batch[TARGET] - step


def add_displacement(record: Data) -> Data:
    """Add the target ``displacement``, by minimum image, to a record that has ``pos_relaxed``."""
    if "pos_relaxed" in record:
        straight = record.pos_relaxed - record.pos
        record[TARGET] = straight - whole_cells(in_cells(straight, record).round(), record)
    return record


def in_cells(vectors: Float[Tensor, "atoms 3"], data: Any) -> Float[Tensor, "atoms 3"]:
    """Per-atom vectors of a record or batch in fractional coordinates; 0 along non-periodic directions."""
    cell, repeats, system = _cells(data)
    return fractional(vectors, completed_cells(cell, repeats), system) * repeats[system]


def whole_cells(counts: Float[Tensor, "atoms 3"], data: Any) -> Float[Tensor, "atoms 3"]:
    """Lattice vectors ``counts @ cell`` of each atom's structure, Å."""
    cell, _, system = _cells(data)
    return lattice_vectors(counts, cell, system)


def _cells(data: Any) -> tuple[Float[Tensor, "systems 3 3"], Bool[Tensor, "systems 3"], Int[Tensor, "atoms"]]:
    """Cells, periodic directions of each structure, and the structure of each atom; a zero cell is not periodic."""
    batch = getattr(data, "batch", None)
    system = torch.zeros(len(data.pos), dtype=torch.long, device=data.pos.device) if batch is None else batch
    return data.cell, periodic_directions(data) & (data.cell != 0).any(dim=-1), system
