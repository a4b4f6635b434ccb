"""The update of eSCN: a point-wise network on the sphere that sees the embedding and the summed messages."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, silu

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.escn.config import ESCNConfig, Implementation
from fairchem_hdgnn.models.nn.precision import Compute, full_precision
from fairchem_hdgnn.models.nn.silu import silu_backward
from fairchem_hdgnn.models.so3.grid import S2Grid

NODES_PER_CHUNK_ON_CPU = 64
"""Atoms whose grid values are held at a time."""

NODES_PER_CHUNK = 1024
"""The same elsewhere: about half a gigabyte of temporaries in float32."""


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
        mixed = self.first(torch.cat([x, message], dim=-1))
        constants = (matrix.to(mixed.dtype) for matrix in (self.grid.to_grid, self.grid.from_grid, self.second.weight))
        result = _PointwiseNetwork.apply(Compute.chosen(mixed), mixed, *constants)
        return self.third(result)

    def reference(self, x: Tensor, message: Tensor) -> Tensor:
        """The plain equations."""
        points = torch.cat([self.grid.values(x), self.grid.values(message)], dim=-1)
        return self.grid.coefficients(self.third(silu(self.second(silu(self.first(points))))))


class _PointwiseNetwork(torch.autograd.Function):
    """``FromGrid(SiLU(W_2 SiLU(ToGrid(mixed))))``; grid values, four times larger than x, are never kept."""

    @staticmethod
    def forward(
        ctx: Any, compute: Compute, mixed: Tensor, to_grid: Tensor, from_grid: Tensor, weight: Tensor
    ) -> Tensor:
        ctx.save_for_backward(mixed, to_grid, from_grid, weight)
        ctx.compute = compute
        chunks = []
        with full_precision(mixed):
            for chunk in mixed.split(nodes_per_chunk(mixed)):
                first = silu(to_grid @ chunk, inplace=True)
                chunks.append(from_grid @ silu(linear(first, weight, tf32=compute.tf32), inplace=True))
        return torch.cat(chunks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        mixed, to_grid, from_grid, weight = ctx.saved_tensors
        compute: Compute = ctx.compute
        weight_gradient = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        chunks = []
        size = nodes_per_chunk(mixed)
        with full_precision(mixed):
            for chunk, upstream in zip(mixed.split(size), gradient.split(size)):
                first = to_grid @ chunk
                first_active = silu(first)
                second = linear(first_active, weight, tf32=compute.tf32)
                second_gradient = silu_backward(from_grid.T @ upstream, second)
                compute.add_product(weight_gradient, second_gradient.flatten(0, 1).T, first_active.flatten(0, 1))
                first_gradient = linear(second_gradient, weight.T, tf32=compute.tf32)
                chunks.append(to_grid.T @ silu_backward(first_gradient, first))
        return None, torch.cat(chunks), None, None, weight_gradient.to(weight.dtype)


def nodes_per_chunk(mixed: Float[Tensor, "nodes coefficients channels"]) -> int:
    """Atoms whose grid values are formed together."""
    return NODES_PER_CHUNK_ON_CPU if mixed.device.type == "cpu" else NODES_PER_CHUNK
