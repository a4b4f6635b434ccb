"""Runs a message function over blocks of edges, and its backward pass block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.edges import EdgeBlock, Edges
from fairchem_hdgnn.models.nn.precision import Compute, full_precision
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps, FastEdgeOps
from fairchem_hdgnn.models.ops.passes import Pass

NUMBERS_ON_CPU = 1_280_000
"""In the largest temporary of a block: enough for an efficient matrix product, few enough for the cache."""

NUMBERS_ON_GPU = 200_000_000
"""0.8 GB in float32: nearly every batch is one block."""

MessageFunction = Callable[..., Tensor]
"""``message(ops, edge_features, node_tensors)``: the sums of the messages into the block's atoms."""


@dataclass(frozen=True)
class Execution:
    """How messages are run.

    Attributes:
        ops: the operations; plain ones run on all edges at once, in ordinary autograd.
        compute: how products with the networks' matrices run.
        keep: store what the backward pass needs of each block, instead of running the block again.
    """

    ops: type[EdgeOps]
    compute: Compute
    keep: bool


def sum_messages(
    message: MessageFunction,
    parameters: Sequence[Tensor],
    edges: Edges,
    edge_features: Float[Tensor, "edges edge_channels"],
    node_tensors: Mapping[str, Tensor],
    execution: Execution,
    width: int,
) -> Float[Tensor, "nodes coefficients channels"]:
    """Sum of the messages into each atom, differentiable in features, node tensors and parameters.

    Args:
        message: the function of a block.
        parameters: what ``message`` reads besides its arguments.
        edges: the edges.
        edge_features: of each edge.
        node_tensors: what all blocks read besides: features of atoms, and matrices made of parameters.
        execution: how.
        width: numbers for each edge in the largest temporary; decides how many edges a block has.
    """
    if not issubclass(execution.ops, FastEdgeOps):
        whole = edges.blocks(None)[0]
        return message(execution.ops(whole, Pass(execution.compute)), edge_features, node_tensors)
    edges_per_block = max(1, (NUMBERS_ON_CPU if edges.on_cpu else NUMBERS_ON_GPU) // width)
    keep = execution.keep and torch.is_grad_enabled()
    layer = _Layer(message, edges, replace(execution, keep=keep), edges_per_block, tuple(node_tensors))
    return _SumMessages.apply(layer, edge_features, *node_tensors.values(), *parameters)


@dataclass(frozen=True)
class _Layer:
    message: MessageFunction
    edges: Edges
    execution: Execution
    edges_per_block: int
    names: tuple[str, ...]

    def blocks(self, edge_features: Tensor) -> list[tuple[EdgeBlock, Tensor]]:
        """Each block with the features of its edges."""
        blocks = self.edges.blocks(self.edges_per_block)
        return list(zip(blocks, edge_features.split([len(block.source) for block in blocks])))

    def leaves(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Node tensors, cut off from what made them, and parameters as they are."""
        count = len(self.names)
        return [*(_leaf(tensor) for tensor in tensors[:count]), *tensors[count:]]

    def run(self, block: EdgeBlock, run: Pass, features: Tensor, leaves: Sequence[Tensor], *, keep: bool) -> Tensor:
        """The messages of a block, differentiable while gradients are enabled."""
        return self.message(self.execution.ops(block, run, keep=keep), features, dict(zip(self.names, leaves)))


class _SumMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: _Layer, edge_features: Tensor, *tensors: Tensor) -> Tensor:
        keep = layer.execution.keep
        run, leaves, results = Pass(layer.execution.compute), layer.leaves(tensors), []
        ctx.layer, ctx.kept = layer, []
        ctx.save_for_backward(edge_features, *tensors)
        with full_precision(edge_features), torch.set_grad_enabled(keep):
            for block, part in layer.blocks(edge_features):
                features = _leaf(part)
                result = layer.run(block, run, features, leaves, keep=keep)
                results.append(result.detach())
                if keep:
                    ctx.kept.append((features, result))
        run.forget_packed()
        ctx.pass_and_leaves = (run, leaves) if keep else None
        return torch.cat(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer | None = ctx.layer
        if layer is None:
            raise RuntimeError(
                "a second backward pass (retain_graph) through messages whose activations the first has freed: compute "
                "the prediction again, or set model.activations to recompute"
            )
        edge_features, *tensors = ctx.saved_tensors
        if ctx.pass_and_leaves is None:
            run, leaves = Pass(layer.execution.compute), layer.leaves(tensors)
        else:
            run, leaves = ctx.pass_and_leaves
            ctx.layer = ctx.pass_and_leaves = None
        wanted, of_features = [leaf for leaf in leaves if leaf.requires_grad], []
        with full_precision(gradient):
            for block, part in layer.blocks(edge_features):
                if ctx.kept:
                    # Out of the list, so that a block's activations go as soon as they have been used.
                    features, result = ctx.kept.pop(0)
                else:
                    features = _leaf(part)
                    with torch.enable_grad():
                        result = layer.run(block, run, features, leaves, keep=False)
                inputs = [*wanted, features] if features.requires_grad else wanted
                upstream = gradient[block.first_node : block.last_node]
                found = torch.autograd.grad(result, inputs, upstream, allow_unused=True)
                del result
                for leaf, of_leaf in zip(wanted, found):
                    if of_leaf is not None:
                        run.add_gradient(leaf, of_leaf)
                if features.requires_grad:
                    of_features.append(torch.zeros_like(features) if found[-1] is None else found[-1])
        sums = [run.gradient(leaf).to(leaf.dtype) if leaf.requires_grad else None for leaf in leaves]
        return None, torch.cat(of_features) if of_features else None, *sums


def _leaf(tensor: Tensor) -> Tensor:
    """The same values, cut off from what made them."""
    return tensor.detach().requires_grad_(tensor.requires_grad)
