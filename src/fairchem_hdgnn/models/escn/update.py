"""The update of eSCN: a point-wise network on the sphere on the embedding and the summed messages."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.ops.execution import Execution
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.so3.grid import S2Grid


class UpdateBlock(nn.Module):
    """``FromGrid( W_3 SiLU(W_2 SiLU(W_1 [x(r), m(r)])) )`` at every point r of a grid, no biases.

    Args:
        config: hyper-parameters.
    """

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        channels, self.lmax = config.sphere_channels, config.lmax
        self.grid = S2Grid(config.lmax, resolution=config.grid_resolution(config.lmax))
        self.first = nn.Linear(2 * channels, channels, bias=False)
        self.second = nn.Linear(channels, channels, bias=False)
        self.third = nn.Linear(channels, channels, bias=False)

    def forward(
        self,
        x: Float[Tensor, "nodes coefficients channels"],
        message: Float[Tensor, "nodes all_coefficients channels"],
        execution: Execution,
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """The layer's update of x; x may have only l = 0."""
        x = pad(x, (0, 0, 0, message.shape[1] - x.shape[1]))
        if not execution.fast:
            points = torch.cat([self.grid.values(x), self.grid.values(message)], dim=-1)
            return self.grid.coefficients(self.third(silu(self.second(silu(self.first(points))))))
        network = PointwiseNetwork(self.grid.to_grid, self.grid.from_grid, weight=self.second.weight)
        mixed = linear(torch.cat([x, message], dim=-1), self.first.weight)
        return linear(execution.on_sphere(mixed, network), self.third.weight)
