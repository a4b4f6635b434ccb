"""A weight matrix prepared for many products with few rows at a time.

On a CPU oneDNN keeps it in blocks that fit the processor, which makes a product with some hundred rows about as fast
as one with thousands, and adds bias and SiLU while the result is still in registers. Elsewhere, or in a dtype that
oneDNN lacks on this processor, these are torch's ordinary products. No gradients: for code that writes its own backward
pass.
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear, silu

from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32

_PACKED_DTYPES = (torch.float32, torch.bfloat16)
_TYPICAL_ROWS = 256


@cache
def can_pack(dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have oneDNN's packed products in a dtype.

    Tested by trying: these operations are private to torch, and bfloat16 needs AVX-512 or AVX-NE-CONVERT.
    """
    if dtype not in _PACKED_DTYPES or not torch.backends.mkldnn.is_available():
        return False
    weight, x, other = (torch.full(shape, 0.5, dtype=dtype, device="cpu") for shape in ((3, 2), (1, 2), (1, 3)))
    with torch.autocast("cpu", enabled=False):
        try:
            packed = _pack(weight)
            active, added = _packed_product(x, packed, other[0], activated=True), _packed_sum(x, packed, other)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False
        expected = silu(linear(x, weight, other[0])), linear(x, weight) + other
    return torch.allclose(active, expected[0], rtol=0.01) and torch.allclose(added, expected[1], rtol=0.01)


def _pack(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TYPICAL_ROWS)


def _packed_product(x: Tensor, packed: Tensor, bias: Tensor | None, *, activated: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "swish" if activated else "none", [], "")


def _packed_sum(x: Tensor, packed: Tensor, other: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, other, packed, None, "add")


class PackedMatrix:
    """Computes ``x W^T``.

    Args:
        weight: W, ``[outputs, inputs]``; a later change of it is not seen.
        tf32: whether products may run in TF32.
    """

    def __init__(self, weight: Float[Tensor, "outputs inputs"], *, tf32: bool = False) -> None:
        self.weight, self.tf32 = weight.detach(), tf32
        self._packed: Tensor | None = None
        if weight.device.type == "cpu" and can_pack(weight.dtype):
            self._packed = _pack(self.weight)

    def product(
        self, x: Float[Tensor, "rows inputs"], bias: Float[Tensor, "outputs"] | None = None, *, activated: bool = False
    ) -> Float[Tensor, "rows outputs"]:
        """``x W^T + bias``, followed by SiLU if ``activated``."""
        with allow_tf32(self.tf32):
            if self._packed is not None and x.shape[0] > 0:
                return _packed_product(x, self._packed, bias, activated=activated)
            value = linear(x, self.weight, bias)
        return silu(value, inplace=True) if activated else value

    def added_product(
        self, x: Float[Tensor, "rows inputs"], other: Float[Tensor, "rows outputs"]
    ) -> Float[Tensor, "rows outputs"]:
        """``x W^T + other``, summed in the dtype of ``other``."""
        if self._packed is None or x.shape[0] == 0 or other.dtype != x.dtype:
            return other + self.product(x)
        with allow_tf32(self.tf32):
            return _packed_sum(x, self._packed, other)
