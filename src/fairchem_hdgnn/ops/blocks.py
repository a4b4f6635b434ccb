"""Runs a message function over blocks of edges, and its backward pass block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.edges import EdgeBlock, Edges
from fairchem_hdgnn.nn.precision import Compute, full_precision
from fairchem_hdgnn.ops.edge_ops import EdgeOps, FastEdgeOps
from fairchem_hdgnn.ops.passes import Pass

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

    def blocks(self) -> list[EdgeBlock]:
        return self.edges.blocks(self.edges_per_block)

    def leaves(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Node tensors, cut off from what made them, and parameters as they are."""
        count = len(self.names)
        return [*(t.detach().requires_grad_(t.requires_grad) for t in tensors[:count]), *tensors[count:]]

    def run(self, block: EdgeBlock, run: Pass, features: Tensor, leaves: Sequence[Tensor], *, keep: bool) -> _Kept:
        """The messages of a block, differentiable if ``keep`` or while gradients are enabled."""
        leaf = features[block.start : block.end].detach().requires_grad_(features.requires_grad)
        ops = self.execution.ops(block, run, keep=keep)
        return _Kept(block, leaf, self.message(ops, leaf, dict(zip(self.names, leaves))))


class _Kept(NamedTuple):
    block: EdgeBlock
    features: Tensor
    result: Tensor


class _SumMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: _Layer, edge_features: Tensor, *tensors: Tensor) -> Tensor:
        keep = layer.execution.keep
        run, leaves, results = Pass(layer.execution.compute), layer.leaves(tensors), []
        ctx.layer, ctx.kept = layer, []
        ctx.save_for_backward(edge_features, *tensors)
        with full_precision(edge_features), torch.set_grad_enabled(keep):
            for block in layer.blocks():
                kept = layer.run(block, run, edge_features, leaves, keep=keep)
                results.append(kept.result.detach())
                if keep:
                    ctx.kept.append(kept)
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
        kept = ctx.kept
        if ctx.pass_and_leaves is None:
            run, leaves = Pass(layer.execution.compute), layer.leaves(tensors)
        else:
            run, leaves = ctx.pass_and_leaves
            ctx.layer = ctx.pass_and_leaves = None
        features_gradient = torch.zeros_like(edge_features) if edge_features.requires_grad else None
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        with full_precision(gradient):
            for block in layer.blocks():
                with torch.enable_grad():
                    # Out of the list, so that a block's activations go as soon as they have been used.
                    part = kept.pop(0) if kept else layer.run(block, run, edge_features, leaves, keep=False)
                inputs = wanted if features_gradient is None else [*wanted, part.features]
                upstream = gradient[block.first_node : block.last_node]
                found = torch.autograd.grad(part.result, inputs, upstream, allow_unused=True)
                del part
                for leaf, of_leaf in zip(wanted, found):
                    if of_leaf is not None:
                        run.gradient(leaf).add_(of_leaf)
                if features_gradient is not None and found[-1] is not None:
                    features_gradient[block.start : block.end] = found[-1]
        sums = [run.gradient(leaf).to(leaf.dtype) if leaf.requires_grad else None for leaf in leaves]
        return None, features_gradient, *sums
