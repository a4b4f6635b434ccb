"""The summed messages of one layer, one block of edges at a time: the fast path.

The same function as :meth:`fairchem_hdgnn.models.escn.message.MessageBlock.reference`, arranged so that

- the inner weights V act on unrotated features, once per atom instead of once per edge: ``V (D x) = D (V x)`` degree
  by degree, and the sum over degrees is one product of an edge's turned row of D with the atom's ``V x``;
- the outer product of an order is one matrix product for both inputs and both terms;
- rotating back and summing into an atom is one matrix product per atom over all its edges;
- where x has only l = 0, as in the first layer, only m = 0 and the latitudes of the grid are left;
- the backward pass recomputes a block instead of keeping it. Only the hidden values of source atoms are held for all
  edges of a layer at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad, silu

from fairchem_hdgnn.models.escn.block_products import Activation, BlockProducts, Weights
from fairchem_hdgnn.models.escn.geometry import Geometry, Rotations
from fairchem_hdgnn.models.nn.edge_blocks import Block
from fairchem_hdgnn.models.nn.precision import Compute, full_precision
from fairchem_hdgnn.models.nn.silu import silu_backward
from fairchem_hdgnn.models.nn.so2 import SO2Convolution
from fairchem_hdgnn.models.so3.layout import num_coefficients

SOURCE, TARGET = 0, 1
NODES_PER_CHUNK = 64
"""Atoms whose ``V x`` is held at a time."""


def blockwise_message(
    convolution: SO2Convolution,
    activation: Activation,
    geometry: Geometry,
    rotations: Rotations,
    x: Float[Tensor, "nodes coefficients channels"],
    edge_features: Float[Tensor, "edges edge_channels"],
) -> Float[Tensor, "nodes all_coefficients channels"]:
    """Messages summed over the edges into each atom, differentiable in x, edge features and weights.

    Args:
        convolution: the SO(2) convolution of source and target features.
        activation: the point-wise SiLU, for the rows of ``rotations``.
        geometry: the graph.
        rotations: ``geometry.rotations``, or ``geometry.zonal`` where x has only l = 0.
        x: node embedding, all coefficients or l = 0 alone.
        edge_features: features of each edge.
    """
    dtype = rotations.rows.dtype
    parameters = Weights(
        convolution.scale.weight, convolution.scale.bias, tuple(convolution.inner), tuple(convolution.outer)
    )
    weights = (parameter.to(dtype) for parameter in parameters.flat())
    summed = _BlockwiseMessage.apply(
        convolution, activation, geometry, rotations, Compute.chosen(x), x.to(dtype), edge_features.to(dtype), *weights
    )
    return summed.to(x.dtype)


class _BlockwiseMessage(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        convolution: SO2Convolution,
        activation: Activation,
        geometry: Geometry,
        rotations: Rotations,
        compute: Compute,
        x: Tensor,
        edge_features: Tensor,
        *flat_weights: Tensor,
    ) -> Tensor:
        weights = Weights.from_flat(convolution.lmax, flat_weights)
        ctx.arguments = (weights, rotations, activation, convolution.hidden_channels, compute)
        ctx.geometry = geometry
        ctx.save_for_backward(x, edge_features)
        with full_precision(x):
            return _summed(BlockProducts(*ctx.arguments), geometry, x, edge_features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, edge_features = ctx.saved_tensors
        with full_precision(gradient):
            gradients = _gradients(BlockProducts(*ctx.arguments), ctx.geometry, x, edge_features, gradient)
        return None, None, None, None, None, *gradients


def _summed(
    products: BlockProducts, geometry: Geometry, x: Tensor, edge_features: Tensor
) -> Float[Tensor, "nodes all_coefficients channels"]:
    """The messages; arguments as those of :func:`blockwise_message`."""
    features = _with_none(edge_features)
    source_hidden = _source_hidden(products, geometry, x)
    result = x.new_zeros(x.shape[0], num_coefficients(products.lmax), x.shape[2])
    for chunk in _chunks(geometry.target.blocks):
        mixed = products.mix(_features_of(x, chunk.nodes), TARGET)
        for block, part in chunk.blocks:
            source = _rows_at(source_hidden, geometry.source_slot[block.slots])
            hidden = [source, products.turn(mixed[:, part], products.rotations.turned_target, block)]
            scales = silu(products.unscaled(features[geometry.target.edges[block.slots]]), inplace=True)
            y = products.outer(products.gate(hidden, scales), x.shape[2])
            products.activate(y)
            rows = _rows_of_atoms(products.rotations, block)
            result[block.nodes] = torch.bmm(rows.mT, y.view(*rows.shape[:2], -1))
    return result


def _gradients(
    products: BlockProducts, geometry: Geometry, x: Tensor, edge_features: Tensor, gradient: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of x, edge features and weights from that of the messages."""
    total = products.weights.zeros()
    features = _with_none(edge_features)
    features_gradient, x_gradient = torch.zeros_like(features), torch.zeros_like(x)
    source_hidden = _source_hidden(products, geometry, x)
    turned_source, turned_target = products.rotations.turned_source, products.rotations.turned_target
    for chunk in _chunks(geometry.target.blocks):
        x_chunk = _features_of(x, chunk.nodes)
        mixed = products.mix(x_chunk, TARGET)
        for block, part in chunk.blocks:
            edges, source_slots = geometry.target.edges[block.slots], geometry.source_slot[block.slots]
            hidden = [_rows_at(source_hidden, source_slots), products.turn(mixed[:, part], turned_target, block)]
            unscaled = products.unscaled(features[edges])
            scales = silu(unscaled)
            gated = products.gate(hidden, scales)
            y = products.outer(gated, x.shape[2])

            upstream = torch.bmm(_rows_of_atoms(products.rotations, block), gradient[block.nodes])
            products.activate_backward(y, upstream.view(y.shape))
            scales_gradient = products.gate_backward(hidden, scales, products.outer_backward(gated, y, total))
            unscaled_gradient = silu_backward(scales_gradient, unscaled)
            features_gradient[edges] = products.unscaled_backward(features[edges], unscaled_gradient, total)
            # Each slot's hidden values are needed once, and V x of an atom in one block only, so that their
            # gradients take their places.
            for values, block_values in zip(source_hidden, hidden[SOURCE]):
                values.index_copy_(0, source_slots, block_values)
            products.turn_backward(mixed[:, part], turned_target, block, hidden[TARGET])
        x_gradient[chunk.nodes] += products.mix_backward(x_chunk, TARGET, mixed, total)
    for chunk in _chunks(geometry.source.blocks):
        x_chunk = _features_of(x, chunk.nodes)
        mixed = x.new_empty(*x_chunk.shape[:2], products.num_terms * products.hidden_channels)
        for block, part in chunk.blocks:
            hidden_gradient = [values[block.slots] for values in source_hidden]
            products.turn_backward(mixed[:, part], turned_source, block, hidden_gradient)
        x_gradient[chunk.nodes] += products.mix_backward(x_chunk, SOURCE, mixed, total)
    weights = products.weights.flat()
    weight_gradients = (sum_.to(weight.dtype) for sum_, weight in zip(total.flat(), weights))
    return x_gradient, features_gradient[:-1], *weight_gradients


def _with_none(edge_features: Tensor) -> Float[Tensor, "edges_and_none edge_channels"]:
    """Edge features and a row of zeros for empty slots."""
    return pad(edge_features, (0, 0, 0, 1))


def _rows_of_atoms(rotations: Rotations, block: Block) -> Float[Tensor, "nodes slot_rows coefficients"]:
    """D of a block, the rows of all edges of an atom one below another."""
    rows = rotations.rows[block.slots]
    return rows.view(block.nodes.shape[0], -1, rows.shape[-1])


@dataclass(frozen=True)
class _Chunk:
    """Blocks whose atoms are mixed together: V has few rows to work on in one block.

    Attributes:
        nodes: the atoms of all blocks.
        blocks: each block and where its atoms stand in ``nodes``.
    """

    nodes: Int[Tensor, "nodes"]
    blocks: list[tuple[Block, slice]]


def _chunks(blocks: list[Block]) -> Iterator[_Chunk]:
    """Consecutive blocks of up to ``NODES_PER_CHUNK`` atoms, at least one block each."""
    first = 0
    while first < len(blocks):
        members: list[tuple[Block, slice]] = []
        size = 0
        for block in blocks[first:]:
            if members and size + len(block.nodes) > NODES_PER_CHUNK:
                break
            members.append((block, slice(size, size + len(block.nodes))))
            size += len(block.nodes)
        yield _Chunk(torch.cat([block.nodes for block, _ in members]), members)
        first += len(members)


def _features_of(x: Tensor, nodes: Tensor) -> Float[Tensor, "coefficients nodes channels"]:
    return x[nodes].transpose(0, 1).contiguous()


def _rows_at(values: list[Tensor], slots: Tensor) -> list[Float[Tensor, "slots _signs hidden"]]:
    return [tensor.index_select(0, slots) for tensor in values]


def _source_hidden(
    products: BlockProducts, geometry: Geometry, x: Tensor
) -> list[Float[Tensor, "slots_and_none _signs hidden"]]:
    """Hidden values of the source atoms per term, in slots of ``geometry.source``; the last slot is for "none"."""
    slots, turned = geometry.source.edges.shape[0], products.rotations.turned_source
    hidden = [x.new_empty(slots + 1, matrix.shape[1], products.hidden_channels) for matrix in turned]
    for chunk in _chunks(geometry.source.blocks):
        mixed = products.mix(_features_of(x, chunk.nodes), SOURCE)
        for block, part in chunk.blocks:
            for values, block_values in zip(hidden, products.turn(mixed[:, part], turned, block)):
                values[block.slots] = block_values
    for values in hidden:
        values[slots] = 0.0
    return hidden
