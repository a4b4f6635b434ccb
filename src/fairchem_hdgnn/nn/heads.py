"""Output heads that sample the sphere (SCN; Zitnick et al., 2022)."""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.so3.constants import ConstantsModule
from fairchem_hdgnn.so3.grid import fibonacci_points


class SphereReadout(ConstantsModule):
    """A point-wise network on ``x(r)`` at sample points r of the sphere: one number per atom and point.

    ``W_3 SiLU(W_2 SiLU(W_1 x(r)))`` with biases. The first layer acts on coefficients, where it costs less: it
    commutes with the evaluation at r.

    Args:
        lmax: largest degree.
        channels: channels of x.
        num_samples: number of points.
    """

    points: Tensor
    harmonics: Tensor

    def __init__(self, lmax: int, channels: int, num_samples: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels)
        self.third = nn.Linear(channels, 1)
        points = fibonacci_points(num_samples)
        harmonics = o3.spherical_harmonics(list(range(lmax + 1)), points, normalize=False, normalization="integral")
        self.register_constant("points", points)
        self.register_constant("harmonics", harmonics)

    def forward(self, x: Float[Tensor, "nodes coefficients channels"]) -> Float[Tensor, "nodes points"]:
        """The number at each atom and point."""
        mixed = nn.functional.linear(x, self.first.weight)
        values = silu(torch.matmul(self.harmonics, mixed) + self.first.bias)
        return self.third(silu(self.second(values))).squeeze(-1)


class EnergyHead(nn.Module):
    """Energy of each system: mean over sample points, sum over atoms, eV (or the trainer's normalised unit).

    Args:
        lmax: largest degree.
        channels: channels of x.
        num_samples: points of the sphere.
        scale: constant factor; fairchem's eSCN has 0.001.
    """

    def __init__(self, lmax: int, channels: int, num_samples: int, scale: float = 1.0) -> None:
        super().__init__()
        self.readout = SphereReadout(lmax, channels, num_samples)
        self.scale = scale

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], batch: Tensor, num_systems: int
    ) -> Float[Tensor, "systems"]:
        """Sum of the atoms' energies per system."""
        node_energy = self.readout(x).float() if x.dtype.itemsize < 4 else self.readout(x)
        return sum_over_systems(node_energy.mean(-1), batch, num_systems) * self.scale


class ForceHead(nn.Module):
    """Force on each atom, eV/Å: ``mean_r g(r) r`` over sample points r."""

    def __init__(self, lmax: int, channels: int, num_samples: int) -> None:
        super().__init__()
        self.readout = SphereReadout(lmax, channels, num_samples)

    def forward(self, x: Float[Tensor, "nodes coefficients channels"]) -> Float[Tensor, "nodes 3"]:
        """Direct forces (not the gradient of the energy)."""
        values = self.readout(x)
        return values @ self.readout.points.to(values.dtype) / values.shape[-1]


def sum_over_systems(node_values: Float[Tensor, "nodes"], batch: Tensor, num_systems: int) -> Float[Tensor, "systems"]:
    """Sum of node values per system."""
    return node_values.new_zeros(num_systems).index_add_(0, batch, node_values)
