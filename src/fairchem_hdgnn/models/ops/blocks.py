"""Runs a message function over blocks of edges, and its backward pass block by block."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.arithmetic.precision import full_precision
from fairchem_hdgnn.models.edges import EdgeBlock, Edges
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.execution import Execution
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.seen_parameters import SeenParameters, as_leaf

NUMBERS_ON_CPU = 1_280_000
"""In one result of a network for a block's edges: enough for an efficient matrix product, few enough for the cache."""

NUMBERS_ON_GPU = 200_000_000
"""0.8 GB in float32, of which the kernels keep six at once: nearly every batch is one block."""

MessageFunction = Callable[..., Tensor]
"""``message(ops, edge_features, node_tensors)``: the sums of the messages into the block's atoms."""


EdgeTensors = Callable[[EdgeOps, Mapping[str, Tensor]], tuple[Tensor, ...]]
"""``edge_tensors(ops, node_tensors)``: something of each edge that is best formed of all edges at once."""


def no_edge_tensors(ops: EdgeOps, node_tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Messages that are formed block by block throughout."""
    return ()


def sum_messages(
    message: MessageFunction,
    parameters: Sequence[Tensor],
    edges: Edges,
    edge_features: Float[Tensor, "edges edge_channels"],
    node_tensors: Mapping[str, Tensor],
    execution: Execution,
    width: int,
    edge_tensors: EdgeTensors = no_edge_tensors,
) -> Float[Tensor, "nodes coefficients channels"]:
    """Sum of the messages into each atom, differentiable in features, node tensors and parameters.

    Args:
        message: the function of a block, a method of the module with the parameters.
        parameters: the parameters that ``message`` uses besides its arguments.
        edges: the edges.
        edge_features: of each edge.
        node_tensors: other inputs shared by all blocks: features of atoms, and matrices computed from parameters.
        execution: how.
        width: numbers for each edge in one result of a network; decides how many edges a block has.
        edge_tensors: forms further arguments of ``message``, cut into blocks. Its gradients must not need what it
            returned: each block's gradient takes its place.
    """
    if not execution.fast:
        ops = execution.ops(edges.blocks(None)[0], Pass(execution.compute))
        return message(ops, edge_features, node_tensors, *edge_tensors(ops, node_tensors))
    edges_per_block = max(1, (NUMBERS_ON_CPU if edges.on_cpu else NUMBERS_ON_GPU) // width)
    keep = execution.keep and torch.is_grad_enabled()
    names = tuple(node_tensors)
    module: Any = getattr(message, "__self__", None)
    seen = SeenParameters(module, parameters)
    layer = _Layer(message, edge_tensors, edges, replace(execution, keep=keep), edges_per_block, names, seen)
    return _SumMessages.apply(layer, edge_features, *node_tensors.values(), *parameters)


@dataclass(frozen=True)
class _Layer:
    message: MessageFunction
    edge_tensors: EdgeTensors
    edges: Edges
    execution: Execution
    edges_per_block: int
    names: tuple[str, ...]
    seen: SeenParameters

    def blocks(self, *tensors: Tensor) -> list[tuple[EdgeBlock, list[Tensor]]]:
        """Each block with its part of something of each edge, as leaves."""
        blocks = self.edges.blocks(self.edges_per_block)
        sizes = [len(block.source) for block in blocks]
        wanted = [tensor.requires_grad for tensor in tensors]
        parts = zip(*(tensor.detach().split(sizes) for tensor in tensors))
        return [
            (block, [part.requires_grad_(grad) for part, grad in zip(of_block, wanted)])
            for block, of_block in zip(blocks, parts)
        ]

    def leaves(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Detached node tensors, and the parameters."""
        return [*(as_leaf(tensor) for tensor in tensors), *self.seen.leaves]

    def of_all_edges(self, run: Pass, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors of all edges at once, differentiable while gradients are enabled."""
        ops = self.execution.ops(self.edges.blocks(None)[0], run, keep=False)
        return self.edge_tensors(ops, dict(zip(self.names, leaves)))

    def of_block(self, ops: EdgeOps, tensors: Sequence[Tensor], leaves: Sequence[Tensor]) -> Tensor:
        """The messages of a block, differentiable while gradients are enabled."""
        features, *rest = tensors
        return self.message(ops, features, dict(zip(self.names, leaves)), *rest)


class _SumMessages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, layer: _Layer, edge_features: Tensor, *tensors: Tensor) -> Tensor:
        ctx.layer, ctx.kept, ctx.of_forward = layer, [], None
        node_tensors = tensors[: len(layer.names)]
        ctx.save_for_backward(edge_features, *node_tensors)
        with full_precision(edge_features), torch.set_grad_enabled(layer.execution.keep):
            return torch.cat(layer.seen.within(lambda: _SumMessages._results(ctx, edge_features, node_tensors)))

    @staticmethod
    def _results(ctx: Any, edge_features: Tensor, node_tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums of each block."""
        layer: _Layer = ctx.layer
        keep, leaves, results = layer.execution.keep, layer.leaves(node_tensors), []
        run = Pass(layer.execution.compute, leaves)
        of_all = layer.of_all_edges(run, leaves)
        for block, inputs in layer.blocks(edge_features, *of_all):
            result = layer.of_block(layer.execution.ops(block, run, keep=keep), inputs, leaves)
            results.append(result.detach())
            if keep:
                ctx.kept.append((inputs, result))
        if layer.edges.on_cpu:
            # oneDNN's are large, and there is one block after the other; on a GPU the backward pass takes them again.
            run.forget_packed()
        if keep:
            ctx.of_forward = (run, leaves, of_all)
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer | None = ctx.layer
        if layer is None:
            raise RuntimeError(
                "a second backward pass (retain_graph) through messages whose activations the first has freed: compute "
                "the prediction again, or set model.activations to recompute"
            )
        layer.seen.check_unchanged()
        with full_precision(gradient):
            return layer.seen.within(lambda: _SumMessages._of_inputs(ctx, gradient))

    @staticmethod
    def _of_inputs(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients, block by block."""
        layer: _Layer = ctx.layer
        edge_features, *node_tensors = ctx.saved_tensors
        if ctx.of_forward is None:
            leaves = layer.leaves(node_tensors)
            run = Pass(layer.execution.compute, leaves)
            with torch.enable_grad():
                of_all = layer.of_all_edges(run, leaves)
        else:
            run, leaves, of_all = ctx.of_forward
            ctx.layer = ctx.of_forward = None
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        of_features = torch.empty_like(edge_features) if edge_features.requires_grad else None
        # An edge's tensors belong to one block, so that their gradients take their places; .data, since autograd would
        # refuse what other blocks have kept of the same memory.
        of_edges = [of_features, *(tensor.data if tensor.requires_grad else None for tensor in of_all)]
        blocks = layer.blocks(edge_features, *of_all)
        start = 0
        for block, parts in blocks:
            if ctx.kept:
                # Out of the list, so that a block's activations go as soon as they have been used.
                inputs, result = ctx.kept.pop(0)
            else:
                inputs = parts
                ops = layer.execution.ops(block, run, keep=False, values=False)
                with torch.enable_grad():
                    result = layer.of_block(ops, inputs, leaves)
            found = _gradients([result], [*inputs, *wanted], [gradient[block.first_node : block.last_node]])
            del result
            end = start + len(block.source)
            for index, (sums, of_input) in enumerate(zip(of_edges, found)):
                if len(blocks) == 1 and of_input is not None:
                    of_edges[index] = of_input
                elif sums is not None:
                    sums[start:end] = 0.0 if of_input is None else of_input
            start = end
            _add_all(run, wanted, found[len(inputs) :])
        of_features, *of_formed = of_edges
        formed = [(tensor, sums) for tensor, sums in zip(of_all, of_formed) if sums is not None]
        if formed:
            _add_all(run, wanted, _gradients([tensor for tensor, _ in formed], wanted, [sums for _, sums in formed]))
        of_leaves = (run.total(leaf) if leaf.requires_grad else None for leaf in leaves)
        return None, of_features, *of_leaves


def _gradients(results: list[Tensor], inputs: list[Tensor], upstream: list[Tensor]) -> list[Tensor | None]:
    """Of the inputs that want one and that autograd knows of."""
    if not any(result.requires_grad for result in results):
        # As where parameters of orders that x does not have are all that is trained.
        return [None] * len(inputs)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(results, wanted, upstream, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]


def _add_all(run: Pass, leaves: list[Tensor], gradients: Sequence[Tensor | None]) -> None:
    for leaf, gradient in zip(leaves, gradients):
        if gradient is not None:
            run.add_gradient(leaf, gradient)
