"""One round of message passing: normalise, send messages, update, refresh the invariant branch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.degree_linear import DegreeLinear
from fairchem_hdgnn.models.hdgnn.edge_product import EdgeProduct
from fairchem_hdgnn.models.hdgnn.invariant import EdgeAttention, FixedEdgeAttention, InvariantUpdate
from fairchem_hdgnn.models.hdgnn.message import BlockSize, HybridMessage
from fairchem_hdgnn.models.hdgnn.norm import DegreeLayerNorm
from fairchem_hdgnn.models.hdgnn.options import LayerNorm, Message
from fairchem_hdgnn.models.hdgnn.other_messages import (
    FullyConnectedMessage,
    LinearMessage,
    UnrestrictedMessage,
)
from fairchem_hdgnn.models.hdgnn.update import UpdateBlock
from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.ops.blocks import sum_messages
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.execution import Execution
from fairchem_hdgnn.models.so3.layout import add_low_degrees, num_coefficients

MESSAGES: dict[Message, Any] = {
    Message.HYBRID: HybridMessage,
    Message.LINEAR: LinearMessage,
    Message.FULLY_TP: FullyConnectedMessage,
    Message.UNRESTRICTED: UnrestrictedMessage,
}


@dataclass(frozen=True)
class Graph:
    """Data of a forward pass shared by all layers.

    Attributes:
        atomic_numbers: one per atom.
        source: atom j of each edge; edges of one resolution after those of another.
        target: atom i of each edge, ascending within a resolution.
        basis: distance basis of each edge.
        edges: for each resolution, its edges.
        execution: how messages are run.
    """

    atomic_numbers: Int[Tensor, "nodes"]
    source: Int[Tensor, "edges"]
    target: Int[Tensor, "edges"]
    basis: Float[Tensor, "edges centres"]
    edges: list[Edges]
    execution: Execution


def block_sizes(config: HDGNNConfig, *, only_scalars: bool) -> list[BlockSize]:
    """Degrees and widths of each resolution: all neighbours, or near and far ones."""
    near = BlockSize(config.lmax, config.mmax, config.lmax_metp, config.hidden_channels, only_scalars)
    if config.num_resolutions == 1:
        return [near]
    lmax = config.lmax_far
    degrees = (lmax, min(lmax, config.mmax), min(lmax, config.lmax_metp))
    return [near, BlockSize(*degrees, config.hidden_channels_far, only_scalars)]


def parameters_of_edges(message: nn.Module) -> list[Tensor]:
    """Those that act on edges; the weights of equivariant products only enter matrices, which are node tensors."""
    products = [module for module in message.modules() if isinstance(module, EdgeProduct)]
    others = {id(weight) for product in products for weight in product.weight}
    return [parameter for parameter in message.parameters() if id(parameter) not in others]


class MessageBlock(nn.Module):
    """Messages of one resolution, summed over the edges into each atom (section 3.2)."""

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.size = size
        self.message = MESSAGES[config.message](config, size)
        num_terms = self.message.num_terms
        self.attention: FixedEdgeAttention | EdgeAttention
        if isinstance(config.attention, tuple):
            self.attention = FixedEdgeAttention(config.attention, num_terms)
        else:
            self.attention = EdgeAttention(config, num_terms)
        self.extra_linear = None
        if config.extra_linear:
            channels = config.sphere_channels
            self.extra_linear = nn.ModuleList([DegreeLinear(size.lmax, channels, channels) for _ in range(2)])

    def forward(
        self,
        x: Float[Tensor, "nodes coefficients channels"],
        f: Float[Tensor, "nodes invariant"],
        edge_features: Float[Tensor, "edges edge_channels"],
        edges: Edges,
        execution: Execution,
    ) -> Float[Tensor, "nodes block_coefficients channels"]:
        """Sum of the messages into each atom, up to the block's degree."""
        x = x[:, : num_coefficients(self.size.lmax)]
        x_source = x_target = x
        if self.extra_linear is not None:
            x_source, x_target = self.extra_linear[0](x), self.extra_linear[1](x)
        nodes = {
            **self.attention.node_tensors(f),
            **self.message.node_tensors(x_source, x_target, execution.compute),
        }
        parameters = [*parameters_of_edges(self.message), *self.attention.parameters()]
        return sum_messages(self.of_block, parameters, edges, edge_features, nodes, execution, self.message.width)

    def of_block(
        self, ops: EdgeOps, edge_features: Float[Tensor, "edges edge_channels"], nodes: dict[str, Tensor]
    ) -> Float[Tensor, "block_nodes block_coefficients channels"]:
        """Messages of a block of edges, summed into its atoms."""

        def attention(ops: EdgeOps, edge_features: Tensor) -> Tensor:
            return self.attention(ops, edge_features, nodes)

        return self.message(ops, edge_features, attention, nodes)


class Layer(nn.Module):
    """Round k: ``(x^k, f^k) -> (x^{k+1}, f^{k+1})``.

    Args:
        config: hyper-parameters.
        updates_branch: whether f^{k+1} is needed; the last layer's is not unless the energy reads it.
        only_scalars: whether x^k has only l = 0, as in the first layer.
    """

    def __init__(self, config: HDGNNConfig, updates_branch: bool, only_scalars: bool) -> None:
        super().__init__()
        self.edge_embedding = EdgeEmbedding(config.num_centres, config.edge_channels, config.max_num_elements)
        self.norm = None
        if config.layer_norm is not LayerNorm.OFF:
            centred = config.layer_norm is LayerNorm.CENTRED
            self.norm = DegreeLayerNorm(config.lmax, config.sphere_channels, centred)
        self.feature_scale = config.feature_scale
        sizes = block_sizes(config, only_scalars=only_scalars)
        self.blocks = nn.ModuleList([MessageBlock(config, size) for size in sizes])
        self.update = UpdateBlock(config)
        self.branch = None
        if updates_branch:
            self.branch = InvariantUpdate(config.edge_channels, config.invariant_channels, config.branch_scale)

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], f: Float[Tensor, "nodes invariant"], graph: Graph
    ) -> tuple[Float[Tensor, "nodes coefficients channels"], Float[Tensor, "nodes invariant"]]:
        """The next node embedding and invariant features."""
        numbers = graph.atomic_numbers
        features = self.edge_embedding(graph.basis, numbers[graph.source], numbers[graph.target])
        normalised = x if self.norm is None else self.norm(x, fused=graph.execution.kernels)
        if self.feature_scale != 1.0:
            normalised = normalised * self.feature_scale
        parts = features.split([edges.num_edges for edges in graph.edges])
        message, *others = (
            block(normalised, f, part, edges, graph.execution)
            for block, part, edges in zip(self.blocks, parts, graph.edges)
        )
        for of_far in others:
            message = add_low_degrees(message, of_far)
        if self.branch is not None:
            # Only the nearest neighbours feed the branch where there are two resolutions, as in the authors' code.
            f = self.branch(f, parts[0], graph.edges[0])
        return self.update(x, message, graph.execution), f
