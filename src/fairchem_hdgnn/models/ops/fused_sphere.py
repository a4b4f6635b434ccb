"""The point-wise network on the sphere on a GPU: one kernel, or two and a matrix product between them.

As :func:`~fairchem_hdgnn.models.ops.sphere.on_sphere`. Values at points exist only before and after that product, in
the networks' dtype.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.kernels.sphere import sphere_silu
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork


def on_sphere_fused(
    x: Float[Tensor, "n rows channels"], network: PointwiseNetwork, compute: Compute
) -> Float[Tensor, "n rows_out channels"]:
    """The network's result, float32."""
    to_grid, from_grid, first_bias, weight, bias = network
    if weight is None:
        return sphere_silu(x, to_grid, first_bias, from_grid, compute.dtype)
    hidden = sphere_silu(x, to_grid, first_bias, None, compute.dtype)
    second = linear(hidden, weight.to(compute.dtype), tf32=compute.tf32)
    return sphere_silu(second, None, bias, from_grid, compute.dtype)
