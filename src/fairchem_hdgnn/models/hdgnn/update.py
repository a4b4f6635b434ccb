"""The update block (section 3.3): a point-wise network on the sphere at r and -r."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.options import Antipode
from fairchem_hdgnn.models.ops.execution import Execution
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.grid import S2Grid
from fairchem_hdgnn.models.so3.layout import num_coefficients, parity_sign

REDUCTION = 16
"""Channels for each hidden unit of the channel attention."""


class SqueezeExcitation(nn.Module):
    """Channel attention of the authors' code: scales each channel by a function of its mean over the grid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // REDUCTION)
        self.first = nn.Linear(channels, hidden)
        self.second = nn.Linear(hidden, channels)

    def forward(self, mean: Float[Tensor, "nodes channels"]) -> Float[Tensor, "nodes channels"]:
        """The scale of each channel, in (0, 1)."""
        return self.second(torch.relu(self.first(mean))).sigmoid()


class UpdateBlock(ConstantsModule):
    """Eqs. 12 and 13: ``x <- FromGrid( MLP( [x(r), x(-r), m(r), m(-r)] ) )``, no residual.

    The network is ``W_3 SiLU(W_2 SiLU(W_1 p + b_1) + b_2) + b_3`` with widths 2C, 2C, C.
    """

    sign: Tensor

    def __init__(self, config: HDGNNConfig) -> None:
        super().__init__()
        channels, lmax = config.sphere_channels, config.lmax
        self.lmax = lmax
        self.shortcut, self.antipodal = config.shortcut, config.antipodal is not Antipode.OFF
        num_inputs = (1 + self.shortcut) * (1 + self.antipodal)
        self.grid = S2Grid(lmax)
        sign = parity_sign(lmax).double()
        if config.antipodal is Antipode.TOP_DEGREE_UNFLIPPED:
            sign[num_coefficients(lmax - 1) :] = 1.0
        self.register_constant("sign", sign.unsqueeze(-1))
        self.first = nn.Linear(num_inputs * channels, 2 * channels)
        self.second = nn.Linear(2 * channels, 2 * channels)
        self.third = nn.Linear(2 * channels, channels)
        self.excitation = SqueezeExcitation(2 * channels) if config.squeeze_excitation else None

    def forward(
        self,
        x: Float[Tensor, "nodes coefficients channels"],
        message: Float[Tensor, "nodes coefficients channels"],
        execution: Execution,
    ) -> Float[Tensor, "nodes coefficients channels"]:
        """The next x from the current one and the summed messages."""
        functions = [x, message] if self.shortcut else [message]
        if self.antipodal:
            functions = [part for f in functions for part in (f, self.sign * f)]
        if not execution.fast:
            return self._on_grid(functions)
        return self._on_coefficients(functions, execution)

    def _on_grid(self, functions: list[Tensor]) -> Tensor:
        """The plain equations: every layer at every grid point."""
        points = torch.cat([self.grid.values(f) for f in functions], dim=-1)
        hidden = silu(self.second(silu(self.first(points))))
        if self.excitation is not None:
            hidden = hidden * self.excitation(hidden.mean(dim=1)).unsqueeze(1)
        return self.grid.coefficients(self.third(hidden))

    def _on_coefficients(self, functions: list[Tensor], execution: Execution) -> Tensor:
        """The same with the outer layers applied to coefficients; the last bias is a constant, which has l = 0 only."""
        mixed = linear(torch.cat(functions, dim=-1), self.first.weight)
        from_grid = self.grid.from_grid
        if self.excitation is not None:
            # The mean over the grid, as one more coefficient.
            from_grid = torch.cat([from_grid, torch.full_like(from_grid[:1], 1 / from_grid.shape[1])])
        weights = (self.first.bias, self.second.weight, self.second.bias)
        network = PointwiseNetwork(self.grid.to_grid, from_grid, *weights)
        hidden = execution.on_sphere(mixed, network)
        if self.excitation is not None:
            hidden = hidden[:, :-1] * self.excitation(hidden[:, -1]).unsqueeze(1)
        constant = self.grid.from_grid.sum(dim=1).unsqueeze(-1)
        return linear(hidden, self.third.weight) + constant * self.third.bias
