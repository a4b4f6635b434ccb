"""One round of message passing: normalise, send messages, update, refresh the invariant branch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.hdgnn.fast_message import HybridPlan, aggregate_hybrid
from fairchem_hdgnn.hdgnn.invariant import EdgeAttention, FixedEdgeAttention, InvariantUpdate
from fairchem_hdgnn.hdgnn.message import MESSAGES, BlockSize
from fairchem_hdgnn.hdgnn.options import Activations, Implementation, LayerNorm, Message
from fairchem_hdgnn.hdgnn.update import UpdateBlock
from fairchem_hdgnn.nn.degree_linear import DegreeLinear
from fairchem_hdgnn.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.nn.norm import DegreeLayerNorm
from fairchem_hdgnn.nn.precision import Compute
from fairchem_hdgnn.so3.layout import num_coefficients
from fairchem_hdgnn.so3.rotation import EdgeRotation


@dataclass(frozen=True)
class EdgeSet:
    """Edges sorted by target, with what stays the same from layer to layer.

    Attributes:
        source: atom j of each edge.
        target: atom i of each edge, ascending.
        rotation: Wigner-D matrices of the edges' frames.
    """

    source: Int[Tensor, "edges"]
    target: Int[Tensor, "edges"]
    rotation: EdgeRotation


@dataclass(frozen=True)
class Graph:
    """What a forward pass shares between layers.

    Attributes:
        atomic_numbers: one per atom.
        source: atom j of each edge.
        target: atom i of each edge, ascending.
        basis: distance basis of each edge.
        compute: how large matrix products run.
        members: for each resolution, which edges it has.
        edge_sets: for each resolution, its edges.
    """

    atomic_numbers: Int[Tensor, "nodes"]
    source: Int[Tensor, "edges"]
    target: Int[Tensor, "edges"]
    basis: Float[Tensor, "edges centres"]
    compute: Compute
    members: list[Tensor]
    edge_sets: list[EdgeSet]


def block_sizes(config: HDGNNConfig) -> list[BlockSize]:
    """Degrees and widths of each resolution: all neighbours, or near and far ones."""
    near = BlockSize(config.lmax, config.mmax, config.lmax_metp, config.hidden_channels)
    if config.num_resolutions == 1:
        return [near]
    lmax = config.lmax_far
    far = BlockSize(lmax, min(lmax, config.mmax), min(lmax, config.lmax_metp), config.hidden_channels_far)
    return [near, far]


class MessageBlock(nn.Module):
    """Messages of one resolution, summed over the edges into each atom (section 3.2)."""

    def __init__(self, config: HDGNNConfig, size: BlockSize, only_scalars: bool) -> None:
        super().__init__()
        self.size, self.only_scalars = size, only_scalars
        self.keeps_activations = config.activations is Activations.STORE
        self.message = MESSAGES[config.message](config, size)
        self.fast = config.implementation is not Implementation.REFERENCE and config.message is Message.HYBRID
        self.fused_rotations = config.implementation is Implementation.TRITON
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
        edges: EdgeSet,
        compute: Compute,
    ) -> Float[Tensor, "nodes block_coefficients channels"]:
        """Sum of the messages into each atom, up to the block's degree."""
        x = x[:, : num_coefficients(self.size.lmax)]
        x_source = x_target = x
        if self.extra_linear is not None:
            x_source, x_target = self.extra_linear[0](x), self.extra_linear[1](x)
        if self.fast:
            keep = self.keeps_activations and torch.is_grad_enabled()
            plan = HybridPlan(self, edges, x.shape[0], self.only_scalars, keep, compute)
            return aggregate_hybrid(plan, x_source, x_target, f, edge_features)
        attention = self.attention(f, edge_features, edges.source, edges.target)
        messages = self.message(
            x_source[edges.source], x_target[edges.target], edge_features, attention, edges.rotation
        )
        return torch.zeros_like(x).index_add_(0, edges.target, messages)


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
        self.blocks = nn.ModuleList([MessageBlock(config, size, only_scalars) for size in block_sizes(config)])
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
        normalised = (x if self.norm is None else self.norm(x)) * self.feature_scale
        message = torch.zeros_like(x)
        for block, members, edges in zip(self.blocks, graph.members, graph.edge_sets):
            summed = block(normalised, f, features[members], edges, graph.compute)
            message[:, : summed.shape[1]] += summed
        if self.branch is not None:
            # Only the nearest neighbours feed the branch where there are two resolutions, as in the authors' code.
            near = graph.edge_sets[0]
            f = self.branch(f, features[graph.members[0]], near.target)
        return self.update(x, message, graph.compute), f
