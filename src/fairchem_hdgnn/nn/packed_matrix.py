"""A weight matrix prepared for many products with few rows at a time.

On a CPU oneDNN keeps it in blocks that fit the processor, which makes a product with some hundred rows about as fast
as one with thousands, and adds bias and SiLU while the result is still in registers. Elsewhere, or in a dtype that
oneDNN lacks, these are torch's ordinary products. No gradients: for code that writes its own backward pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu

_PACKED_DTYPES = (torch.float32, torch.bfloat16)
_TYPICAL_ROWS = 256


class PackedMatrix:
    """Computes ``x W^T``.

    Args:
        weight: W, ``[outputs, inputs]``; a later change of it is not seen.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"]) -> None:
        self.weight = weight.detach()
        self._packed: Tensor | None = None
        if weight.device.type == "cpu" and weight.dtype in _PACKED_DTYPES and torch.backends.mkldnn.is_available():
            self._packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.contiguous(), _TYPICAL_ROWS)

    def product(
        self, x: Float[Tensor, "rows inputs"], bias: Float[Tensor, "outputs"] | None = None, *, activated: bool = False
    ) -> Float[Tensor, "rows outputs"]:
        """``x W^T + bias``, followed by SiLU if ``activated``."""
        if self._packed is None or x.shape[0] == 0:
            value = linear(x, self.weight, bias)
            return silu(value, inplace=True) if activated else value
        operation = "swish" if activated else "none"
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, bias, operation, [], "")

    def added_product(
        self, x: Float[Tensor, "rows inputs"], other: Float[Tensor, "rows outputs"]
    ) -> Float[Tensor, "rows outputs"]:
        """``x W^T + other``, summed in the dtype of ``other``."""
        if self._packed is None or x.shape[0] == 0 or other.dtype != x.dtype:
            return other + self.product(x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._packed, None, "add")
