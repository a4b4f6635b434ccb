"""Gate activation: scalars through SiLU, higher degrees scaled by a sigmoid of extra scalars (Weiler et al., 2018)."""

from __future__ import annotations

import torch
from e3nn.math import normalize2mom
from torch import Tensor
from torch.nn.functional import silu

_SILU_SCALE: float = normalize2mom(silu).cst
_SIGMOID_SCALE: float = normalize2mom(torch.sigmoid).cst


def normalised_silu(scalars: Tensor) -> Tensor:
    """SiLU with e3nn's constant that gives unit second moment on a standard normal input."""
    return silu(scalars) * _SILU_SCALE


def normalised_sigmoid(gates: Tensor) -> Tensor:
    """Sigmoid with e3nn's constant that gives unit second moment; ranges over (0, 1.85)."""
    return torch.sigmoid(gates) * _SIGMOID_SCALE
