"""Mixed precision: large networks in the autocast dtype, everything else in float32.

Under autocast, geometry, Wigner-D matrices, norms, equivariant products, sums and output heads leave it; only the
point-wise and edge networks, which hold nearly all the arithmetic, run in bfloat16 or float16.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(like: Tensor) -> torch.dtype:
    """The dtype for large matrix products: autocast's if it is on for the device of ``like``, else that of ``like``."""
    device = like.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else like.dtype


def full_precision(like: Tensor) -> torch.autocast:
    """A context without autocast on the device of ``like``."""
    return torch.autocast(like.device.type, enabled=False)
