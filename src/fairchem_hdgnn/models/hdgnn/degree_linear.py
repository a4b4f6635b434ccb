"""Equivariant linear layer."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.so3.layout import degree_index


class DegreeLinear(nn.Module):
    """Mixes channels within each degree; a bias on degree 0. Commutes with every rotation.

    Args:
        lmax: largest degree.
        channels_in: channels of the input.
        channels_out: channels of the result.
    """

    degree: Tensor

    def __init__(self, lmax: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        bound = channels_in**-0.5
        self.weight = nn.Parameter(torch.empty(lmax + 1, channels_in, channels_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(channels_out))
        self.register_buffer("degree", degree_index(lmax), persistent=False)

    def forward(self, x: Float[Tensor, "n coefficients channels_in"]) -> Float[Tensor, "n coefficients channels_out"]:
        """``W^l x^l + b`` (b for l = 0 only)."""
        mixed = self.without_bias(x)
        return torch.cat([mixed[:, :1] + self.bias, mixed[:, 1:]], dim=1)

    def without_bias(
        self, x: Float[Tensor, "n coefficients channels_in"]
    ) -> Float[Tensor, "n coefficients channels_out"]:
        """``W^l x^l``."""
        return torch.einsum("nkc,kcd->nkd", x, self.weight.index_select(0, self.degree))
