"""Gate activation: scalars through SiLU, higher degrees scaled by a sigmoid of extra scalars (Weiler et al., 2018)."""

from __future__ import annotations

import torch
from e3nn.math import normalize2mom
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import silu

from fairchem_hdgnn.models.so3.constants import cached_constants
from fairchem_hdgnn.models.so3.layout import degree_index

SILU_SCALE: float = normalize2mom(silu).cst
SIGMOID_SCALE: float = normalize2mom(torch.sigmoid).cst
"""e3nn's constants, which give unit second moment on a standard normal input; a gate ranges over (0, 1.85)."""


def gated_scalars(
    scalars: Float[Tensor, "edges num_scalars"], bias: Float[Tensor, "num_scalars"], channels: int
) -> tuple[Float[Tensor, "edges 1 channels"], Float[Tensor, "edges degrees channels"]]:
    """Degree 0 of the result, and the gates of degrees 1 to lmax."""
    first, gates = (scalars + bias).tensor_split([channels], dim=-1)
    return (silu(first) * SILU_SCALE).unsqueeze(1), (torch.sigmoid(gates) * SIGMOID_SCALE).unflatten(-1, (-1, channels))


def gated(
    scalars: Float[Tensor, "edges num_scalars"],
    higher: Float[Tensor, "edges higher_rows channels"],
    bias: Float[Tensor, "num_scalars"],
) -> Float[Tensor, "edges rows channels"]:
    """All rows (l, m) from degree 0 with the gates, and from the rows of degrees 1 to lmax."""
    first, gates = gated_scalars(scalars, bias, higher.shape[2])
    return torch.cat([first, higher * gates.index_select(1, _gate_of_row(gates.shape[1], gates.device))], dim=1)


@cached_constants
def _gate_of_row(lmax: int, device: torch.device) -> Int[Tensor, "higher_rows"]:
    return (degree_index(lmax)[1:] - 1).to(device)
