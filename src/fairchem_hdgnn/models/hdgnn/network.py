"""HDGNN on plain tensors (sections 3.1 and 3.4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.precision import Compute, full_precision
from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.arithmetic.sums import sum_by_group
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.initialisation import initialise
from fairchem_hdgnn.models.hdgnn.layer import Graph, Layer, MessageBlock
from fairchem_hdgnn.models.nn.heads import EnergyHead, ForceHead, ReadoutInit, initialise_readout
from fairchem_hdgnn.models.nn.network import Network
from fairchem_hdgnn.models.nn.radial import GaussianBasis
from fairchem_hdgnn.models.ops.execution import Execution, Implementation
from fairchem_hdgnn.models.so3.frame_source import FrameSource
from fairchem_hdgnn.models.so3.layout import num_coefficients


class Backbone(nn.Module):
    """Embedding, K layers of message passing; returns x^K and f^K.

    Args:
        config: hyper-parameters.
    """

    def __init__(self, config: HDGNNConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = GaussianBasis(config.cutoff, config.num_centres, config.basis_width)
        self.element_embedding = nn.Embedding(config.max_num_elements, config.invariant_channels)
        self.scalar_embedding = nn.Linear(config.invariant_channels, config.sphere_channels)
        # The plain equations do not exploit known zeros of x.
        shortcuts = config.implementation is not Implementation.REFERENCE
        self.layers = nn.ModuleList(
            [
                Layer(config, config.reads_branch(after_layer=k), only_scalars=k == 0 and shortcuts)
                for k in range(config.num_layers)
            ]
        )
        initialise(self, config)
        self.frames = FrameSource(config.frames, config.frame_seed, config.frame_average)

    def forward(
        self,
        atomic_numbers: Int[Tensor, "nodes"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vec: Float[Tensor, "edges 3"],
        edge_frames: Float[Tensor, "edges 3 3"],
    ) -> tuple[Float[Tensor, "nodes coefficients channels"], Float[Tensor, "nodes invariant"]]:
        """Node embedding x^K (coefficients up to lmax) and invariant features f^K."""
        compute = Compute.chosen(edge_vec)
        with full_precision(edge_vec):
            graph = self.graph(atomic_numbers, edge_index, edge_vec, edge_frames, compute)
            f = self.element_embedding(atomic_numbers)
            scalars = silu(self.scalar_embedding(f))
            x = scalars.new_zeros(scalars.shape[0], num_coefficients(self.config.lmax), scalars.shape[1])
            x[:, 0] = scalars
            for layer in self.layers:
                x, f = layer(x, f, graph)
            return x, f

    def graph(
        self,
        atomic_numbers: Int[Tensor, "nodes"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vec: Float[Tensor, "edges 3"],
        edge_frames: Float[Tensor, "edges 3 3"],
        compute: Compute,
    ) -> Graph:
        """Sort edges by target and distance, split them by resolution, build the Wigner-D matrices."""
        distance = edge_vec.norm(dim=-1)
        order = torch.argsort(distance, stable=True)
        order = order[torch.argsort(edge_index[1, order], stable=True)]
        sizes = [len(order)]
        blocks = [cast(MessageBlock, block) for block in cast(Layer, self.layers[0]).blocks]
        if len(blocks) > 1:
            target = edge_index[1, order]
            rank = torch.arange(len(order), device=order.device) - torch.searchsorted(target, target)
            far = rank >= self.config.near_neighbors
            order = order[torch.argsort(far, stable=True)]
            num_far = int(far.sum())
            sizes = [len(order) - num_far, num_far]
        source, target = edge_index[:, order]
        mmax = max(block.message.mmax for block in blocks)
        edges = Edges.from_frames(source, target, edge_frames[order], len(atomic_numbers), self.config.lmax, mmax)
        cuts = [0, *itertools.accumulate(sizes)]
        parts = [edges.between(start, end) for start, end in zip(cuts, cuts[1:])]
        execution = Execution.chosen(self.config, compute, edge_vec.device, edge_vec.dtype)
        return Graph(atomic_numbers, source, target, self.basis(distance[order]), parts, execution)


class InvariantReadout(nn.Module):
    """``NN(f^K)`` of section 3.4: one number per atom."""

    def __init__(self, channels: int, start: ReadoutInit) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, 1)
        initialise_readout(self.second, start)

    def forward(self, f: Float[Tensor, "nodes invariant"]) -> Float[Tensor, "nodes"]:
        """The atom's contribution."""
        hidden = silu(linear(f, self.first.weight, self.first.bias))
        return linear(hidden, self.second.weight, self.second.bias).squeeze(-1)


class EnergyReadout(nn.Module):
    """Energy of each system: SCN's sphere readout of x^K plus ``lambda NN(f^K)`` (section 3.4)."""

    def __init__(self, config: HDGNNConfig) -> None:
        super().__init__()
        start = config.readout_init
        sizes = (config.lmax, config.sphere_channels, config.num_sphere_samples)
        self.sphere = EnergyHead(*sizes, config.energy_scale, start=start)
        self.readout_weight = config.readout_weight
        self.invariant = InvariantReadout(config.invariant_channels, start) if config.readout_weight else None
        initialise(self, config)

    def forward(
        self,
        x: Float[Tensor, "nodes coefficients channels"],
        f: Float[Tensor, "nodes invariant"],
        batch: Int[Tensor, "nodes"],
        num_systems: int,
    ) -> Float[Tensor, "systems"]:
        """Sum over the atoms of each system."""
        with full_precision(x):
            energy = self.sphere(x, batch, num_systems)
            if self.invariant is not None:
                energy = energy + self.readout_weight * sum_by_group(self.invariant(f), batch, num_systems)
            return energy


class HDGNNNetwork(Network):
    """The whole model on plain tensors.

    Args:
        config: an :class:`HDGNNConfig` or its keys.
    """

    backbone: Backbone

    def __init__(self, config: HDGNNConfig | Mapping[str, Any]) -> None:
        config = config if isinstance(config, HDGNNConfig) else HDGNNConfig.from_keys(config)
        forces = make_force_head(config) if config.regress_forces else None
        super().__init__(Backbone(config), EnergyReadout(config), forces)
        self.config = config


def make_force_head(config: HDGNNConfig) -> ForceHead:
    """The direct force head of HDGNN."""
    sizes = (config.lmax, config.sphere_channels, config.num_sphere_samples)
    head = ForceHead(*sizes, start=config.readout_init)
    initialise(head, config)
    return head
