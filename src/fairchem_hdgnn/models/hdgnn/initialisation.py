"""HDGNN's initialisation with ``weight_init: unit_variance``."""

from __future__ import annotations

import torch
from torch import nn

from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.invariant import EdgeAttention, InvariantUpdate
from fairchem_hdgnn.models.hdgnn.message import InvariantFeatures
from fairchem_hdgnn.models.hdgnn.update import UpdateBlock
from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.nn.heads import SphereReadout
from fairchem_hdgnn.models.nn.initialisation import (
    AFTER_RELU,
    AFTER_SILU,
    WeightInit,
    draw_edge_embedding,
    draw_linear,
    draw_parts,
    draw_sphere_readout,
    of_gaussians,
    on_sphere,
)
from fairchem_hdgnn.models.ops.gated_network import GatedMlp


def initialise(part: nn.Module, config: HDGNNConfig) -> None:
    """Draw the weights of a network's part as configured.

    Args:
        part: backbone or head; initialised in place, except for parameters with a suitable default.
        config: hyper-parameters of the network.
    """
    if config.weight_init is WeightInit.TORCH:
        return
    basis = of_gaussians(config.num_centres, config.basis_width)
    neighbors = config.mean_neighbors
    draw_parts(
        part,
        {
            EdgeEmbedding: lambda module: draw_edge_embedding(module, basis),
            InvariantFeatures: lambda module: draw_linear(module.linear, AFTER_SILU),
            EdgeAttention: draw_attention,
            InvariantUpdate: lambda module: draw_linear(module.linear, AFTER_SILU * neighbors),
            GatedMlp: draw_gated_network,
            UpdateBlock: lambda module: draw_update(module, neighbors),
            SphereReadout: draw_sphere_readout,
        },
    )


def draw_attention(module: EdgeAttention) -> None:
    """Logits of second moment 1."""
    draw_linear(module.first)
    draw_linear(module.second, AFTER_RELU)


def draw_gated_network(module: GatedMlp) -> None:
    """Its hidden layer is a product of two that have passed SiLU."""
    draw_linear(module.first)
    draw_linear(module.second, AFTER_SILU**2)


@torch.no_grad()
def draw_update(module: UpdateBlock, mean_neighbors: float) -> None:
    """An atom's message counts as the mean over its neighbours, since messages into one atom have much in common."""
    draw_linear(module.first, on_sphere(module.lmax))
    message = module.first.weight.shape[1] // (2 if module.shortcut else 1)
    module.first.weight[:, -message:] /= mean_neighbors
    draw_linear(module.second, AFTER_SILU)
    draw_linear(module.third, AFTER_SILU)
