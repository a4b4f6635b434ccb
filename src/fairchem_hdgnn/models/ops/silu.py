"""The derivative of SiLU for hand-written backward passes, optionally in place.

torch keeps it as an operation below its documented interface; where it is missing, the formula takes its place.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_BACKWARD = getattr(torch.ops.aten, "silu_backward", None)


def silu_backward(
    grad: Float[Tensor, "..."], x: Float[Tensor, "..."], out: Float[Tensor, "..."] | None = None
) -> Float[Tensor, "..."]:
    """``grad * silu'(x)``, written into ``out`` (which may be ``grad``) where given."""
    if _BACKWARD is None:
        gate = torch.sigmoid(x)
        value = grad * gate * (1 + x * (1 - gate))
        return value if out is None else out.copy_(value)
    return _BACKWARD(grad, x) if out is None else _BACKWARD.grad_input(grad, x, grad_input=out)
