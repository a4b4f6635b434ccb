"""Initialisations of weights that keep the size of signals from layer to layer.

PyTorch's own initialisation of a linear layer divides the second moment of its input by three, and SiLU by about as
much again. After the update of a few layers, the difference between atoms of one element is then 1e-5 of the whole.
Here each layer is drawn so that its output has second moment 1 if its input has the stated one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from e3nn.math import normalize2mom
from torch import nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.nn.edge_embedding import EdgeEmbedding
from fairchem_hdgnn.models.nn.heads import SphereReadout

AFTER_SILU = normalize2mom(silu).cst ** -2
"""Second moment of SiLU of a standard normal variable."""

AFTER_RELU = 0.5
"""The same for ReLU."""


class WeightInit(str, Enum):
    """``unit_variance``: signals keep their size. ``torch``: PyTorch's own initialisation, as in the published code."""

    UNIT_VARIANCE = "unit_variance"
    TORCH = "torch"


def draw_parts(part: nn.Module, rules: Mapping[type[nn.Module], Callable[[Any], None]]) -> None:
    """Initialise each module inside ``part`` whose type has a rule, in place; others keep their default weights."""
    for module in part.modules():
        if rule := rules.get(type(module)):
            rule(module)


def draw_linear(layer: nn.Linear, second_moment: float = 1.0, size: float = 1.0) -> None:
    """Normal weights and no bias.

    Args:
        layer: to be drawn.
        second_moment: of its inputs, on average over them.
        size: second moment of its output.
    """
    nn.init.normal_(layer.weight, 0.0, math.sqrt(size / (layer.in_features * second_moment)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def draw_edge_embedding(module: EdgeEmbedding, second_moment: float) -> None:
    """Both elements and the distance get an equal share.

    Args:
        module: to be drawn.
        second_moment: of the distance basis, on average over its functions.
    """
    share = 1 / 3
    draw_linear(module.distance, second_moment, share)
    for embedding in (module.source, module.target):
        nn.init.normal_(embedding.weight, 0.0, math.sqrt(share))
    draw_linear(module.output, AFTER_SILU)


def of_gaussians(count: int, width: float) -> float:
    """Second moment of a basis of ``count`` Gaussians; ``width`` in units of their spacing."""
    return width * math.sqrt(math.pi) / count


def draw_sphere_readout(module: SphereReadout) -> None:
    """Initialise all layers but the last, which has a separate key."""
    draw_linear(module.first, on_sphere(module.lmax))
    draw_linear(module.second, AFTER_SILU)


def on_sphere(lmax: int) -> float:
    """Second moment of a function on the sphere whose coefficients up to ``lmax`` have second moment 1."""
    return (lmax + 1) ** 2 / (4 * math.pi)
