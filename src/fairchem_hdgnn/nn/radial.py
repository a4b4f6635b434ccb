"""Distance bases."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.so3.constants import ConstantsModule


class GaussianBasis(ConstantsModule):
    """``exp(-(d - mu_k)**2 / (2 (width * spacing)**2))`` on evenly spaced centres in [0, cutoff].

    Args:
        cutoff: Å.
        num_centres: number of centres, at least 2.
        width: standard deviation in units of the centres' spacing.
    """

    centres: Tensor

    def __init__(self, cutoff: float, num_centres: int, width: float = 1.0) -> None:
        super().__init__()
        # Centres and spacing as float32 gives them in every precision, so that converted checkpoints see the same.
        centres = torch.linspace(0.0, cutoff, num_centres, dtype=torch.float32)
        self.register_constant("centres", centres.double())
        self.exponent = -0.5 / (width * float(centres[1] - centres[0])) ** 2

    def forward(self, distance: Float[Tensor, "edges"]) -> Float[Tensor, "edges centres"]:
        """Basis values at distances in Å."""
        return torch.exp(self.exponent * (distance.unsqueeze(-1) - self.centres).square())
