"""eSCN on plain tensors (Passaro & Zitnick, ICML 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from fairchem_hdgnn.models.arithmetic.precision import Compute, full_precision
from fairchem_hdgnn.models.arithmetic.sums import sum_by_group
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.escn.config import ESCNConfig, Reduction
from fairchem_hdgnn.models.escn.initialisation import initialise
from fairchem_hdgnn.models.escn.layer import Graph, Layer
from fairchem_hdgnn.models.nn.heads import EnergyHead, ForceHead
from fairchem_hdgnn.models.nn.network import Network
from fairchem_hdgnn.models.nn.radial import distance_basis
from fairchem_hdgnn.models.ops.execution import Execution, Implementation
from fairchem_hdgnn.models.so3.frame_source import FrameSource
from fairchem_hdgnn.models.so3.layout import num_coefficients


class Backbone(nn.Module):
    """Embedding and layers of message passing.

    Args:
        config: hyper-parameters.
    """

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        self.config = config
        self.basis = distance_basis(config.distance_function, config.cutoff, config.num_centres, config.basis_width)
        self.element_embedding = nn.Embedding(config.max_num_elements, config.sphere_channels)
        # The plain equations do not exploit known zeros of x.
        shortcut = config.implementation is not Implementation.REFERENCE
        self.layers = nn.ModuleList([Layer(config, k == 0, k == 0 and shortcut) for k in range(config.num_layers)])
        initialise(self, config)
        self.frames = FrameSource(config.frames, config.frame_seed, config.frame_average)

    def forward(
        self,
        atomic_numbers: Int[Tensor, "nodes"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vec: Float[Tensor, "edges 3"],
        edge_frames: Float[Tensor, "edges 3 3"],
    ) -> tuple[Float[Tensor, "nodes coefficients channels"]]:
        """Node embedding, coefficients up to lmax; all that eSCN has of an atom."""
        compute = Compute.chosen(edge_vec)
        with full_precision(edge_vec):
            graph = self.graph(atomic_numbers, edge_index, edge_vec, edge_frames, compute)
            scalars = self.element_embedding(atomic_numbers).unsqueeze(1)
            x = scalars if graph.execution.fast else pad(scalars, (0, 0, 0, num_coefficients(self.config.lmax) - 1))
            for layer in self.layers:
                x = layer(x, graph)
            return (x,)

    def graph(
        self,
        atomic_numbers: Int[Tensor, "nodes"],
        edge_index: Int[Tensor, "2 edges"],
        edge_vec: Float[Tensor, "edges 3"],
        edge_frames: Float[Tensor, "edges 3 3"],
        compute: Compute,
    ) -> Graph:
        """Edges sorted by target, with their distance basis and Wigner-D matrices."""
        config = self.config
        order = torch.argsort(edge_index[1], stable=True)
        source, target = edge_index[:, order]
        edges = Edges.from_frames(source, target, edge_frames[order], len(atomic_numbers), config.lmax, config.mmax)
        basis = self.basis(edge_vec.norm(dim=-1)[order])
        execution = Execution.chosen(config, compute, edge_vec.device, edge_vec.dtype)
        return Graph(atomic_numbers, basis, edges, execution)


class EnergyReadout(nn.Module):
    """Energy of each system: the sphere readout of its atoms, summed or averaged."""

    def __init__(self, config: ESCNConfig) -> None:
        super().__init__()
        self.sphere = EnergyHead(
            config.lmax,
            config.sphere_channels,
            config.num_sphere_samples,
            config.energy_scale,
            output_bias=False,
            start=config.readout_init,
        )
        self.reduction = config.energy_reduction
        initialise(self, config)

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], batch: Int[Tensor, "nodes"], num_systems: int
    ) -> Float[Tensor, "systems"]:
        """The energies."""
        energy = self.sphere(x, batch, num_systems)
        if self.reduction is Reduction.MEAN:
            energy = energy / sum_by_group(x.new_ones(len(x)), batch, num_systems).clamp(min=1)
        return energy


class ESCNNetwork(Network):
    """The whole model on plain tensors.

    Args:
        config: an :class:`ESCNConfig` or its keys.
    """

    backbone: Backbone

    def __init__(self, config: ESCNConfig | Mapping[str, Any]) -> None:
        config = config if isinstance(config, ESCNConfig) else ESCNConfig.from_keys(config)
        forces = make_force_head(config) if config.regress_forces else None
        super().__init__(Backbone(config), EnergyReadout(config), forces)
        self.config = config


def make_force_head(config: ESCNConfig) -> ForceHead:
    """The direct force head of eSCN."""
    sizes = (config.lmax, config.sphere_channels, config.num_sphere_samples)
    head = ForceHead(*sizes, output_bias=False, start=config.readout_init)
    initialise(head, config)
    return head
