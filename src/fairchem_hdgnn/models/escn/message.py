"""The message of eSCN: SO(2) convolutions of both atoms, a point-wise SiLU on the sphere, rotated back and summed."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, silu

from fairchem_hdgnn.models.arithmetic.products import product
from fairchem_hdgnn.models.escn.block_products import Activation
from fairchem_hdgnn.models.escn.blockwise import blockwise_message
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.geometry import Geometry, message_rows
from fairchem_hdgnn.models.escn.graph import Graph
from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.nn.so2 import SO2Convolution
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.grid import grid_matrices
from fairchem_hdgnn.models.so3.layout import coefficient_index, num_coefficients


class MessageBlock(ConstantsModule):
    """``m_i = sum_j D^-1 FromGrid(SiLU(ToGrid(SO2(D x_j, D x_i))))`` with rows ``|m| <= mmax`` of D.

    Args:
        config: hyper-parameters.
    """

    to_grid: Tensor
    from_grid: Tensor
    ordered_to_grid: Tensor
    zonal_to_grid: Tensor
    zonal_from_grid: Tensor

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        self.lmax, self.mmax = config.lmax, config.mmax
        self.edge_embedding = EdgeEmbedding(config.num_centres, config.edge_channels, config.max_num_elements)
        self.convolution = SO2Convolution(
            config.lmax, config.mmax, config.sphere_channels, config.hidden_channels, config.edge_channels, num_inputs=2
        )
        resolution = config.grid_resolution(config.mmax)
        to_grid, from_grid = grid_matrices(config.lmax, resolution)
        kept = coefficient_index(config.lmax, config.mmax)
        zonal = coefficient_index(config.lmax, 0)
        self.register_constant("to_grid", to_grid[:, kept])
        self.register_constant("from_grid", from_grid[kept])
        self.register_constant("ordered_to_grid", to_grid[:, kept[message_rows(config.lmax, config.mmax)]])
        # A function of m = 0 alone has the same value at all longitudes.
        self.register_constant("zonal_to_grid", to_grid.unflatten(0, resolution)[:, 0, zonal])
        self.register_constant("zonal_from_grid", from_grid.unflatten(1, resolution).sum(-1)[zonal])

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], graph: Graph
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """Messages summed over the edges into each atom; x may have only l = 0."""
        numbers = graph.atomic_numbers
        source, target = graph.edge_index
        features = self.edge_embedding(graph.basis, numbers[source], numbers[target])
        if graph.geometry is not None:
            return self.blockwise(x, features, graph.geometry)
        assert graph.rows is not None
        return self.reference(x, features, graph.edge_index, graph.rows)

    def blockwise(self, x: Tensor, edge_features: Tensor, geometry: Geometry) -> Tensor:
        """The fast path."""
        if x.shape[1] == 1:
            rotations, to_grid, from_grid = geometry.zonal, self.zonal_to_grid, self.zonal_from_grid
        else:
            rotations, to_grid, from_grid = geometry.rotations, self.ordered_to_grid, self.from_grid
        dtype = rotations.rows.dtype
        activation = Activation(to_grid.to(dtype), from_grid.to(dtype))
        return blockwise_message(self.convolution, activation, geometry, rotations, x, edge_features)

    def reference(
        self, x: Tensor, edge_features: Tensor, edge_index: Tensor, rows: Float[Tensor, "edges rows coefficients"]
    ) -> Tensor:
        """The plain equations."""
        full = pad(x, (0, 0, 0, num_coefficients(self.lmax) - x.shape[1]))
        rotated = [product(rows, full[nodes]) for nodes in edge_index]
        values = silu(product(self.to_grid, self.convolution(rotated, edge_features)))
        messages = product(rows.mT, product(self.from_grid, values))
        return torch.zeros_like(full).index_add_(0, edge_index[1], messages.to(full.dtype))
