"""Distance bases."""

from __future__ import annotations

import math
from enum import Enum

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu, threshold

from fairchem_hdgnn.models.arithmetic.products import linear

NEGLIGIBLE = 2.0**-64


class DistanceFunction(str, Enum):
    """Gaussians, or other functions that fairchem's eSCN offers."""

    GAUSSIAN = "gaussian"
    SIGMOID = "sigmoid"
    LINEAR_SIGMOID = "linearsigmoid"
    SILU = "silu"


class GaussianBasis(nn.Module):
    """``exp(-(d - mu_k)**2 / (2 (width * spacing)**2))`` on evenly spaced centres in [0, cutoff]; 0 below 2^-64.

    Args:
        cutoff: Å.
        num_centres: number of centres, at least 2.
        width: standard deviation in units of the centres' spacing.
    """

    centres: Tensor

    def __init__(self, cutoff: float, num_centres: int, width: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, num_centres), persistent=False)
        # The spacing in float32, so that converted checkpoints have the same exponent.
        self.exponent = -0.5 / math.log(2) / (width * float(self.centres[1] - self.centres[0])) ** 2

    def forward(self, distance: Float[Tensor, "edges"]) -> Float[Tensor, "edges centres"]:
        """Basis values at distances in Å."""
        # torch.exp takes ten times as long if its result underflows, as most do here.
        values = torch.exp2(self.exponent * (distance.unsqueeze(-1) - self.centres).square())
        # Products with the smallest would be denormal numbers, which slow a CPU down.
        return threshold(values, NEGLIGIBLE, 0.0)


class SigmoidBasis(nn.Module):
    """``sigmoid(t_k)``, ``t_k = width (d - mu_k) / spacing``, plus ``slope t_k``, on evenly spaced centres.

    Args:
        cutoff: Å.
        num_centres: number of centres, at least 2.
        width: steepness in units of one over the centres' spacing.
        slope: 0, or the slope that keeps the function from levelling off.
    """

    centres: Tensor

    def __init__(self, cutoff: float, num_centres: int, width: float, slope: float) -> None:
        super().__init__()
        self.register_buffer("centres", torch.linspace(0.0, cutoff, num_centres), persistent=False)
        self.steepness = float(width / (self.centres[1] - self.centres[0]))
        self.slope = slope

    def forward(self, distance: Float[Tensor, "edges"]) -> Float[Tensor, "edges centres"]:
        """Basis values at distances in Å."""
        scaled = self.steepness * (distance.unsqueeze(-1) - self.centres)
        return torch.sigmoid(scaled) + self.slope * scaled if self.slope else torch.sigmoid(scaled)


class SiLUBasis(nn.Module):
    """``SiLU(a_k d + b_k + c_k)`` with learned a, b, c.

    Args:
        num_centres: number of functions.
    """

    def __init__(self, num_centres: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, num_centres)

    def forward(self, distance: Float[Tensor, "edges"]) -> Float[Tensor, "edges centres"]:
        """Basis values at distances in Å."""
        inputs = torch.stack([distance, torch.ones_like(distance)], -1)
        return silu(linear(inputs, self.linear.weight, self.linear.bias))


def distance_basis(kind: DistanceFunction, cutoff: float, num_centres: int, width: float) -> nn.Module:
    """The basis selected by the configuration; SCN's four (Zitnick et al., 2022)."""
    if kind is DistanceFunction.GAUSSIAN:
        return GaussianBasis(cutoff, num_centres, width)
    if kind is DistanceFunction.SILU:
        return SiLUBasis(num_centres)
    return SigmoidBasis(cutoff, num_centres, width, slope=0.001 if kind is DistanceFunction.LINEAR_SIGMOID else 0.0)
