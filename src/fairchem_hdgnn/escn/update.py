"""The update of eSCN: a point-wise network on the sphere that sees the embedding and the summed messages."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, pad, silu

from fairchem_hdgnn.escn.config import ESCNConfig, Implementation
from fairchem_hdgnn.nn.silu import silu_backward
from fairchem_hdgnn.so3.grid import S2Grid

NODES_PER_CHUNK = 64
"""Atoms whose grid values are held at a time."""


class UpdateBlock(nn.Module):
    """``FromGrid( W_3 SiLU(W_2 SiLU(W_1 [x(r), m(r)])) )`` at every point r of a grid, no biases.

    Args:
        config: hyper-parameters.
    """

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        channels = config.sphere_channels
        self.implementation = config.implementation
        self.grid = S2Grid(config.lmax, resolution=config.grid_resolution(config.lmax))
        self.first = nn.Linear(2 * channels, channels, bias=False)
        self.second = nn.Linear(channels, channels, bias=False)
        self.third = nn.Linear(channels, channels, bias=False)

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], message: Float[Tensor, "nodes all_coefficients channels"]
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """What the layer adds to x; x may have only l = 0."""
        x = pad(x, (0, 0, 0, message.shape[1] - x.shape[1]))
        if self.implementation is Implementation.REFERENCE:
            return self.reference(x, message)
        # The outer linear layers act on channels and commute with the transforms; there are four times fewer
        # coefficients than points.
        mixed = linear(torch.cat([x, message], dim=-1), self.first.weight)
        constants = (matrix.to(mixed.dtype) for matrix in (self.grid.to_grid, self.grid.from_grid, self.second.weight))
        with torch.autocast(mixed.device.type, enabled=False):
            result = _PointwiseNetwork.apply(mixed, *constants)
        return linear(result, self.third.weight)

    def reference(self, x: Tensor, message: Tensor) -> Tensor:
        """The plain equations."""
        points = torch.cat([self.grid.values(x), self.grid.values(message)], dim=-1)
        return self.grid.coefficients(self.third(silu(self.second(silu(self.first(points))))))


class _PointwiseNetwork(torch.autograd.Function):
    """``FromGrid(SiLU(W_2 SiLU(ToGrid(mixed))))``; grid values, four times larger than x, are never kept."""

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, to_grid: Tensor, from_grid: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(mixed, to_grid, from_grid, weight)
        chunks = [
            from_grid @ silu(linear(silu(to_grid @ chunk, inplace=True), weight), inplace=True)
            for chunk in mixed.split(NODES_PER_CHUNK)
        ]
        return torch.cat(chunks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mixed, to_grid, from_grid, weight = ctx.saved_tensors
        weight_gradient = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        chunks = []
        for chunk, upstream in zip(mixed.split(NODES_PER_CHUNK), gradient.split(NODES_PER_CHUNK)):
            first = to_grid @ chunk
            first_active = silu(first)
            second_gradient = silu_backward(from_grid.T @ upstream, linear(first_active, weight))
            weight_gradient += second_gradient.flatten(0, 1).T @ first_active.flatten(0, 1)
            chunks.append(to_grid.T @ silu_backward(second_gradient @ weight, first))
        return torch.cat(chunks), None, None, weight_gradient.to(weight.dtype)
