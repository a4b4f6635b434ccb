"""The matrix products of eSCN's SO(2) convolution on a GPU, in the networks' dtype.

The rows of an order are a slice of all rows; products read and write slices, so that nothing is cut or concatenated.
``D x`` is not stored for the backward pass: it is rotated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.kernels.rotations import gather_rotate, rotate_sum
from fairchem_hdgnn.models.ops.so2 import InnerWeights

EdgeLists = tuple[Any, ...]
"""``(index, edges, offsets, wigner, place)`` of :data:`~fairchem_hdgnn.models.kernels.rotations.gather_rotate`."""


def gather_mix_rotate(
    x: Float[Tensor, "nodes coefficients channels"],
    edges: EdgeLists,
    num_rows: int,
    compute: Compute,
    weights: InnerWeights,
) -> tuple[Float[Tensor, "edges _signs _term_hidden"], ...]:
    """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gather_mix_rotate`."""

    def rotated(x: Tensor) -> Tensor:
        *lists, wigner, place = edges
        return gather_rotate(x, *lists, wigner, place, num_rows, compute.dtype)

    def rotated_back(gradient: Tensor) -> Tensor:
        return rotate_sum(gradient, None, None, None, *edges)

    return _MixOrders.apply(rotated, rotated_back, compute, weights, x, *weights.of_degrees)


def join_orders(
    gated: Sequence[Float[Tensor, "edges _signs _inputs"]],
    weights: Sequence[Float[Tensor, "_inputs _degree_channels"]],
    channels: int,
    compute: Compute,
) -> Float[Tensor, "edges rows channels"]:
    """As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.join_orders`, in the networks' dtype."""
    return _JoinOrders.apply(channels, compute, *gated, *weights)


class _MixOrders(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        rotated: Callable[[Tensor], Tensor],
        rotated_back: Callable[[Tensor], Tensor],
        compute: Compute,
        weights: InnerWeights,
        x: Tensor,
        *of_degrees: Tensor,
    ) -> tuple[Tensor, ...]:
        matrices = [weights.of_order(order).to(compute.dtype) for order in range(weights.mmax + 1)]
        ctx.save_for_backward(x, *matrices)
        ctx.call = rotated, rotated_back, compute
        ctx.dtypes = [weight.dtype for weight in of_degrees]
        values, results = rotated(x), []
        with compute.products():
            for part, matrix in zip(_slices(values, matrices, x.shape[2]), matrices):
                out = part.new_empty(*part.shape[:2], matrix.shape[1])
                _multiply(part, matrix, out)
                results.append(out)
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *matrices = ctx.saved_tensors
        rotated, rotated_back, compute = ctx.call
        weights_wanted = any(ctx.needs_input_grad[5:])
        values = rotated(x)
        of_values, of_matrices = torch.empty_like(values), []
        slices = zip(_slices(values, matrices, x.shape[2]), _slices(of_values, matrices, x.shape[2]))
        with compute.products():
            for (part, of_part), matrix, gradient in zip(slices, matrices, gradients):
                _multiply(gradient, matrix.T, of_part)
                if weights_wanted:
                    of_matrices.append(_weight_gradient(part, gradient, torch.float32).split(x.shape[2]))
        if not weights_wanted:
            return None, None, None, None, rotated_back(of_values), *(None for _ in ctx.dtypes)
        of_degrees = [
            torch.cat([of_order[degree - order] for order, of_order in enumerate(of_matrices[: degree + 1])], dim=1)
            for degree in range(len(ctx.dtypes))
        ]
        of_degrees = [of_degree.to(dtype) for of_degree, dtype in zip(of_degrees, ctx.dtypes)]
        return None, None, None, None, rotated_back(of_values), *of_degrees


class _JoinOrders(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, channels: int, compute: Compute, *tensors: Tensor) -> Tensor:
        gated, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        ctx.save_for_backward(*tensors)
        ctx.call = channels, compute
        rows = sum(values.shape[1] * weight.shape[1] // channels for values, weight in zip(gated, weights))
        y = gated[0].new_empty(len(gated[0]), rows, channels)
        with compute.products():
            for values, part, weight in zip(gated, _slices(y, [w.T for w in weights], channels), weights):
                _multiply(values, weight.to(compute.dtype), part)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        channels, compute = ctx.call
        tensors = ctx.saved_tensors
        gated, weights = tensors[: len(tensors) // 2], tensors[len(tensors) // 2 :]
        of_gated, of_weights = [], []
        wanted = ctx.needs_input_grad[2 + len(gated) :]
        with compute.products():
            slices = _slices(gradient, [w.T for w in weights], channels)
            for values, part, weight, weight_wanted in zip(gated, slices, weights, wanted):
                of_values = torch.empty_like(values)
                _multiply(part, weight.to(compute.dtype).T, of_values)
                of_gated.append(of_values)
                of_weights.append(_weight_gradient(values, part, weight.dtype) if weight_wanted else None)
        return None, None, *of_gated, *of_weights


def _slices(
    y: Float[Tensor, "edges rows channels"], matrices: Sequence[Tensor], channels: int
) -> list[Float[Tensor, "edges _signs _degree_channels"]]:
    """The rows of each order, whose matrix has a row for each of its degrees and channels."""
    flat, parts, start = y.flatten(1), [], 0
    for order, matrix in enumerate(matrices):
        signs, width = 1 if order == 0 else 2, matrix.shape[0]
        parts.append(flat[:, start : start + signs * width].unflatten(1, (signs, width)))
        start += signs * width
    return parts


def _multiply(
    x: Float[Tensor, "edges signs inputs"],
    matrix: Float[Tensor, "inputs outputs"],
    out: Float[Tensor, "edges signs outputs"],
) -> None:
    """``out = x matrix``; a batched product has the strides of a slice."""
    signs = x.shape[1]
    torch.bmm(x.transpose(0, 1), matrix.expand(signs, -1, -1), out=out.transpose(0, 1))


def _weight_gradient(
    x: Float[Tensor, "edges signs inputs"], gradient: Float[Tensor, "edges signs outputs"], dtype: torch.dtype
) -> Float[Tensor, "inputs outputs"]:
    """``sum x^T gradient``."""
    return torch.bmm(x.permute(1, 2, 0), gradient.transpose(0, 1)).sum(0, dtype=dtype)
