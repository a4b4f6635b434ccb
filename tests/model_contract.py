"""The models that tests/test_model_contract.py holds to one contract, as fairchem builds and calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from ase import Atoms
from fairchem.core.models.base import HydraModel
from fairchem_batches import batch_of
from small_networks import random_rotations, randomise
from torch import Tensor, nn

from fairchem_hdgnn import ESCN, HDGNN
from fairchem_hdgnn.models.so3.frame_source import FrameSource
from fairchem_hdgnn.models.so3.frames import edge_frames

SIZES: dict[str, Any] = {
    "lmax": 2,
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 6,
    "edge_channels": 5,
    "num_sphere_samples": 20,
    "max_num_elements": 40,
    "cutoff": 4.0,
    "distance_resolution": 0.5,
    "max_neighbors": 200,
    "regress_forces": True,
}
HDGNN_SIZES = {**SIZES, "lmax_metp": 1, "invariant_channels": 6, "near_neighbors": 3, "lmax_far": 1}
ESCN_SIZES = {**SIZES, "mmax": 1, "weight_init": "torch"}
"""Bounds on what a finite grid costs are for weights of this size."""


@dataclass(frozen=True)
class Subject:
    """A model under test.

    Attributes:
        model: class, or prefix of the dotted names of a hydra's parts.
        keys: of its config.
        symmetric: further keys, with which these rotations leave energies as they are and turn forces along.
        rotations: [rotations, 3, 3].
        roll_error: what the roll of edge frames then changes; in units of the spread of energies, and of the forces.
    """

    model: type[nn.Module] | str
    keys: dict[str, Any]
    symmetric: dict[str, Any]
    rotations: Tensor
    roll_error: float

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0, **keys: Any) -> nn.Module:
        """In evaluation, every weight and bias random, and large enough that energies come from the structure."""
        keys = {**self.keys, **keys}
        torch.manual_seed(seed)
        model = hydra(self.model, keys) if isinstance(self.model, str) else self.model(**keys)
        randomise(model, seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.mul_(1 if name.endswith("bias") else 2)
        return model.to(dtype).eval()


def hydra(prefix: str, keys: dict[str, Any]) -> HydraModel:
    """The same network in fairchem's parts: backbone, energy head, force head."""
    heads = {"energy": {"module": f"{prefix}EnergyHead"}, "forces": {"module": f"{prefix}ForceHead"}}
    return HydraModel({"model": f"{prefix}Backbone", **keys}, heads, pass_through_head_outputs=True)


def polar_turns(longitudes: int) -> Tensor:
    """Two rotations about the y axis that map a grid with so many longitudes to itself."""
    angles = torch.tensor([1.0, 2.0], dtype=torch.float64) * 2 * torch.pi / longitudes
    rows = [
        [angles.cos(), 0 * angles, angles.sin()],
        [0 * angles, 1 + 0 * angles, 0 * angles],
        [-angles.sin(), 0 * angles, angles.cos()],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


# HDGNN is equivariant with the tensor product alone (docs/model.md), but for the update's grid, which is fixed.
STRICT: dict[str, Any] = {
    "symmetric": {"attention": [0.0, 0.0, 0.0, 1.0], "num_sphere_samples": 3000},
    "rotations": polar_turns(2 * (SIZES["lmax"] + 1) + 1),
    "roll_error": 1e-10,
}
# eSCN is on grids that are fine enough.
FINE: dict[str, Any] = {
    "symmetric": {"resolution": 48, "num_sphere_samples": 3000},
    "rotations": random_rotations(2),
    "roll_error": 1e-3,
}

SUBJECTS = {
    "HDGNN, paper": Subject(HDGNN, {**HDGNN_SIZES, "preset": "paper"}, **STRICT),
    "HDGNN, authors": Subject(HDGNN, {**HDGNN_SIZES, "preset": "authors"}, **STRICT),
    "HDGNN, hydra": Subject("fairchem_hdgnn.HDGNN", HDGNN_SIZES, **STRICT),
    "eSCN": Subject(ESCN, ESCN_SIZES, **FINE),
    "eSCN, hydra": Subject("fairchem_hdgnn.ESCN", ESCN_SIZES, **FINE),
}


def predict(model: nn.Module, *structures: Atoms) -> dict[str, Tensor]:
    """Energies [structures] and forces [atoms, 3] of one batch."""
    with torch.no_grad():
        return model(batch_of(*structures))


class FramesOf(nn.Module):
    """Frames of edges that were turned by ``rotation``: those they had before, turned along.

    Args:
        rotation: a rotation matrix.
        roll: of every frame about its edge.
    """

    def __init__(self, rotation: Tensor, roll: float = 0.0) -> None:
        super().__init__()
        self.rotation, self.roll = rotation, roll

    def forward(self, edge_vec: Tensor, species: Tensor, training: bool) -> list[Tensor]:
        """One set, [edges, 3, 3]."""
        roll = edge_vec.new_full((len(edge_vec),), self.roll)
        return [edge_frames(edge_vec @ self.rotation, roll) @ self.rotation.T]


def set_frames(model: nn.Module, frames: nn.Module) -> None:
    """Let edge frames come from ``frames``."""
    [(parent, name)] = [
        (parent, name)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, (FrameSource, FramesOf))
    ]
    setattr(parent, name, frames)
