"""The message of eSCN: SO(2) convolutions of both atoms, a point-wise SiLU on the sphere, rotated back and summed."""

from __future__ import annotations

from collections.abc import Mapping

from jaxtyping import Float, Int
from torch import Tensor

from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.so2 import ATOMS, SO2Convolution
from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.ops.blocks import sum_messages
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.execution import Execution
from fairchem_hdgnn.models.ops.so2 import rows_by_order
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.grid import grid_matrices


class MessageBlock(ConstantsModule):
    """``m_i = sum_j D^-1 FromGrid(SiLU(ToGrid(SO2(D x_j, D x_i))))`` with rows ``|m| <= mmax`` of D.

    Args:
        config: hyper-parameters.
        only_scalars: whether x has only l = 0, as in the first layer: then only m = 0 is left, and a function of m = 0
            has the same value at all longitudes of the grid.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, config: ESCNConfig, only_scalars: bool) -> None:
        super().__init__()
        self.lmax, self.degree = config.lmax, 0 if only_scalars else config.lmax
        mmax = min(self.degree, config.mmax)
        self.edge_embedding = EdgeEmbedding(config.num_centres, config.edge_channels, config.max_num_elements)
        sizes = (config.sphere_channels, config.hidden_channels, config.edge_channels)
        self.convolution = SO2Convolution(config.lmax, config.mmax, *sizes)
        self.rows = rows_by_order(config.lmax, mmax)
        resolution = config.grid_resolution(config.mmax)
        to_grid, from_grid = grid_matrices(config.lmax, resolution)
        kept = [l * l + l + m for l, m in self.rows]
        to_grid, from_grid = to_grid[:, kept], from_grid[kept]
        if only_scalars:
            to_grid, from_grid = to_grid.unflatten(0, resolution)[:, 0], from_grid.unflatten(1, resolution).sum(-1)
        self.register_constant("to_grid", to_grid)
        self.register_constant("from_grid", from_grid)
        # Of both atoms: one number for m = 0, and for each larger m two terms with two signs.
        self.width = 2 * (1 + 4 * mmax) * config.hidden_channels

    def forward(
        self,
        x: Float[Tensor, "nodes coefficients channels"],
        atomic_numbers: Int[Tensor, "nodes"],
        basis: Float[Tensor, "edges centres"],
        edges: Edges,
        execution: Execution,
    ) -> Float[Tensor, "nodes all_coefficients channels"]:
        """Messages summed over the edges into each atom."""
        features = self.edge_embedding(basis, atomic_numbers[edges.source], atomic_numbers[edges.target])
        nodes = {"x": x, **self.convolution.node_tensors(self.degree)}
        # Those of higher degrees have no effect on l = 0, and get a gradient of zero.
        parameters = [*self.convolution.inner, *self.convolution.outer]
        return sum_messages(self.of_block, parameters, edges, features, nodes, execution, self.width, self.of_atoms)

    def of_atoms(self, ops: EdgeOps, nodes: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """``V z`` of sources and targets; computed for all edges at once, since an atom's edges are in many blocks."""
        source, target = (self.convolution.mixed(ops, nodes, atom, self.degree) for atom in ATOMS)
        return (*source, *target)

    def of_block(
        self,
        ops: EdgeOps,
        edge_features: Float[Tensor, "edges edge_channels"],
        nodes: Mapping[str, Tensor],
        *mixed: Float[Tensor, "edges _signs _term_hidden"],
    ) -> Float[Tensor, "block_nodes all_coefficients channels"]:
        """Messages of a block of edges, summed into its atoms."""
        orders = len(mixed) // len(ATOMS)
        y = self.convolution(ops, edge_features, nodes, mixed[:orders], mixed[orders:])
        y = ops.on_sphere(y, PointwiseNetwork(self.to_grid, self.from_grid))
        return ops.rotate_scatter(y, self.lmax, self.rows)
