"""Noisy Nodes for IS2RE: an auxiliary task that tells a model where the atoms will go.

During training some structures are moved between the initial and the relaxed positions and given noise, and a per-atom
head predicts the displacement that is left (Godwin et al., ICLR 2022; with interpolated positions as in Equiformer,
Liao & Smidt, ICLR 2023). In a configuration::

    dataset:
      train:
        transforms:
          noisy_nodes:
            probability: 0.5            # of a structure to be moved
            standard_deviation: 0.3     # of the noise, Å

fairchem applies the transform to each record of every split; it only adds the target ``displacement``. Structures are
moved by ``fairchem_hdgnn.Trainer``, in training steps and nowhere else, so evaluation sees them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from fairchem.core.modules import transforms
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.arithmetic.products import product
from fairchem_hdgnn.arithmetic.tf32 import allow_tf32
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hyperparameters import from_keys, real

TRANSFORM = "noisy_nodes"
TARGET = "displacement"
"""What is left to go to the relaxed positions, Å, per atom."""


@dataclass(frozen=True)
class NoisyNodes:
    """How structures are moved.

    Attributes:
        probability: of each structure, in [0, 1].
        standard_deviation: of the Gaussian noise on each coordinate, Å.
    """

    probability: float = real(0.5, minimum=0.0)
    standard_deviation: float = real(0.3, minimum=0.0)

    def __post_init__(self) -> None:
        """Refuse a probability above 1."""
        if self.probability > 1:
            raise ConfigError(f"'probability' must be at most 1, not {self.probability:g}")

    @classmethod
    def of_transforms(cls, settings: Mapping[str, Any] | None) -> NoisyNodes | None:
        """The settings in ``dataset.train.transforms``; ``None`` where it has none.

        Raises:
            ConfigError: an unknown key or a wrong value.
        """
        if not settings or TRANSFORM not in settings:
            return None
        return from_keys(cls, settings[TRANSFORM] or {}, f"dataset.train.transforms.{TRANSFORM}")

    def move(self, batch: Batch) -> None:
        """Move some structures of ``batch``: their free atoms with tag 1 or 2, each by its own share of the way.

        ``pos`` becomes ``t pos + (1 - t) pos_relaxed + noise`` with t uniform in [0, 1], and ``displacement`` what is
        left. Random numbers are drawn on the CPU from torch's global generator, whatever the device.
        """
        num_atoms, device = len(batch.pos), batch.pos.device
        chosen = torch.rand(len(batch.natoms)) < self.probability
        travelled = torch.rand(num_atoms, 1)
        noise = self.standard_deviation * torch.randn(num_atoms, 3)
        moved = chosen.to(device)[batch.batch] & (batch.tags > 0) & (batch.fixed == 0)
        step = travelled.to(device) * batch[TARGET] + noise.to(device)
        step = torch.where(moved.unsqueeze(1), step, torch.zeros_like(step))
        # Back into the cell, for fairchem's neighbour search misses edges of atoms outside.
        batch.pos = torch.where(moved.unsqueeze(1), inside(batch.pos + step, batch.cell[batch.batch]), batch.pos)
        batch[TARGET] = batch[TARGET] - step


def add_displacement(record: Data, settings: Mapping[str, Any] | None = None) -> Data:
    """fairchem's transform ``noisy_nodes``: the target ``displacement`` of a record that has ``pos_relaxed``."""
    if "pos_relaxed" in record:
        record[TARGET] = shortest(record.pos_relaxed - record.pos, record.cell.reshape(3, 3))
    return record


def shortest(displacement: Float[Tensor, "atoms 3"], cell: Float[Tensor, "3 3"]) -> Float[Tensor, "atoms 3"]:
    """Displacements without jumps over periodic boundaries, Å; a cell of zeros is no cell."""
    cells = cell.expand(len(displacement), 3, 3)
    return _less_whole_cells(displacement, cells, in_cells(displacement, cells).round())


def inside(pos: Float[Tensor, "atoms 3"], cells: Float[Tensor, "atoms 3 3"]) -> Float[Tensor, "atoms 3"]:
    """Positions moved into each atom's cell by whole cell vectors, Å."""
    return _less_whole_cells(pos, cells, in_cells(pos, cells).floor())


def in_cells(vectors: Float[Tensor, "atoms 3"], cells: Float[Tensor, "atoms 3 3"]) -> Float[Tensor, "atoms 3"]:
    """Vectors in units of the cell vectors; zero where a cell is zero."""
    periodic = (cells != 0).flatten(1).any(dim=1)
    identity = torch.eye(3, dtype=cells.dtype, device=cells.device).expand_as(cells)
    solvable = torch.where(periodic[:, None, None], cells, identity)
    with allow_tf32(False):
        units = torch.linalg.solve(solvable.mT, vectors.unsqueeze(-1)).squeeze(-1)
    return units * periodic.unsqueeze(1)


def _less_whole_cells(
    vectors: Float[Tensor, "atoms 3"], cells: Float[Tensor, "atoms 3 3"], counts: Float[Tensor, "atoms 3"]
) -> Float[Tensor, "atoms 3"]:
    return vectors - product(counts.unsqueeze(1), cells).squeeze(1)


# fairchem evaluates the names under `transforms` in this module; there is no registry of transforms.
setattr(transforms, TRANSFORM, add_displacement)
