"""eSCN's initialisation with ``weight_init: unit_variance``."""

from __future__ import annotations

import torch
from torch import nn

from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.escn.so2 import SO2Convolution
from fairchem_hdgnn.models.escn.update import UpdateBlock
from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.nn.heads import SphereReadout
from fairchem_hdgnn.models.nn.initialisation import (
    AFTER_SILU,
    WeightInit,
    draw_edge_embedding,
    draw_linear,
    draw_parts,
    draw_sphere_readout,
    of_gaussians,
    on_sphere,
)
from fairchem_hdgnn.models.nn.radial import DistanceFunction
from fairchem_hdgnn.models.ops.so2 import num_terms, order_of_term


def initialise(part: nn.Module, config: ESCNConfig) -> None:
    """Draw the weights of a network's part as configured.

    Args:
        part: backbone or head; initialised in place, except for parameters with a suitable default.
        config: hyper-parameters of the network.
    """
    if config.weight_init is WeightInit.TORCH:
        return
    draw_parts(
        part,
        {
            EdgeEmbedding: lambda module: draw_edge_embedding(module, of_basis(config)),
            SO2Convolution: draw_convolution,
            UpdateBlock: lambda module: draw_update(module, config),
            SphereReadout: draw_sphere_readout,
        },
    )


def of_basis(config: ESCNConfig) -> float:
    """Second moment of the distance basis; half of the sigmoids are about 1, and the others about 0."""
    if config.distance_function is DistanceFunction.GAUSSIAN:
        return of_gaussians(config.num_centres, config.basis_width)
    return 0.5


@torch.no_grad()
def draw_convolution(module: SO2Convolution) -> None:
    """Both factors, so that the result has second moment 1 on the sphere, where SiLU acts on it."""
    draw_linear(module.scale, AFTER_SILU)
    for term in range(num_terms(module.mmax)):
        order = order_of_term(term)
        inputs = (module.lmax + 1 - order) * module.channels
        columns = slice(term * module.hidden_channels, (term + 1) * module.hidden_channels)
        for degree in range(order, module.lmax + 1):
            module.inner[degree][..., columns].normal_(0.0, inputs**-0.5)
    for weight in module.outer:
        weight.normal_(0.0, (len(weight) * AFTER_SILU * on_sphere(module.lmax)) ** -0.5)


@torch.no_grad()
def draw_update(module: UpdateBlock, config: ESCNConfig) -> None:
    """An atom's message counts as the mean over its neighbours, and all layers together add one unit to x."""
    draw_linear(module.first, on_sphere(module.lmax))
    channels = module.first.weight.shape[1] // 2
    module.first.weight[:, channels:] /= AFTER_SILU**0.5 * config.mean_neighbors
    draw_linear(module.second, AFTER_SILU)
    draw_linear(module.third, AFTER_SILU, 1 / config.num_layers)
