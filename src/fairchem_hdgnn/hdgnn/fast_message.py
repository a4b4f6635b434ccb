"""Eq. 11 summed over neighbours, in cache-sized chunks of edges with a hand-written backward pass.

Equal to :class:`~fairchem_hdgnn.hdgnn.message.HybridMessage` followed by a sum over edges, which tests hold it to in
value and gradient. What differs is the order of the work (:mod:`~fairchem_hdgnn.hdgnn.evaluations`,
:mod:`~fairchem_hdgnn.so3.segments`) and that the messages of different chunks never exist at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.arithmetic.products import linear
from fairchem_hdgnn.hdgnn.edge_gates import EdgeGates
from fairchem_hdgnn.hdgnn.evaluations import Evaluations, Role, plan_evaluations
from fairchem_hdgnn.hdgnn.neural_chunk import NeuralChunk, Workspace
from fairchem_hdgnn.hdgnn.neural_weights import NeuralMatrices, NeuralWeights
from fairchem_hdgnn.nn.precision import Compute, full_precision
from fairchem_hdgnn.so3.layout import degrees_and_orders
from fairchem_hdgnn.so3.segments import FusedSegments, Segments

if TYPE_CHECKING:
    from fairchem_hdgnn.hdgnn.layer import EdgeSet, MessageBlock


class Chunking(NamedTuple):
    """How edges are divided.

    Attributes:
        activations: numbers in the largest temporary of a chunk.
        chunks_per_span: chunks, at most, whose gates are formed together: these are many small operations, whose number
            matters and not their size.
    """

    activations: int
    chunks_per_span: int


ON_CPU = Chunking(1_280_000, 4)
"""Enough for an efficient matrix product, few enough for the cache."""

ELSEWHERE = Chunking(20_000_000, 1)
"""80 MB in float32: enough to keep a GPU busy, few enough for its memory."""


class Span(NamedTuple):
    """Chunks whose gates are formed together.

    Attributes:
        nodes: range of target atoms of all.
        chunks: their ranges.
    """

    nodes: tuple[int, int]
    chunks: list[tuple[int, int]]


class HybridPlan:
    """Constants of one message block on one set of edges for one forward pass.

    Args:
        block: the message block; its message is a ``HybridMessage``.
        edges: edges sorted by target.
        num_nodes: number of atoms.
        only_scalars: whether x has only l = 0.
        keep_activations: store the networks' activations for the backward pass instead of computing them again.
        compute: how the networks' matrix products run.
    """

    def __init__(
        self,
        block: MessageBlock,
        edges: EdgeSet,
        num_nodes: int,
        only_scalars: bool,
        keep_activations: bool,
        compute: Compute,
    ) -> None:
        message: Any = block.message
        self.message, self.edges = message, edges
        self.keep_activations, self.compute = keep_activations, compute
        segments = FusedSegments if block.fused_rotations else Segments
        self.segments = segments(edges.target, num_nodes)
        self.evaluations: Evaluations = plan_evaluations(
            message.mlp, message.neural_input, message.output_activation, only_scalars
        )
        size = message.size
        neural_rows = degrees_and_orders(size.lmax, size.mmax)
        low_rows = degrees_and_orders(size.lmax_metp)
        rows = [*neural_rows, *(row for row in low_rows if row not in neural_rows)]
        self.num_neural_rows, self.num_outputs = len(neural_rows), len(neural_rows) * message.channels
        self.workspace = Workspace()
        self.spans = self._spans()
        self.gates = EdgeGates(block, edges)
        self.low_positions = torch.tensor([rows.index(row) for row in low_rows], device=edges.source.device)
        rotation = edges.rotation
        self.neural_matrices = rotation.rows(size.lmax, size.mmax)
        self.output_matrices = rotation.selected(size.lmax, rows)

    def _spans(self) -> list[Span]:
        chunking = ON_CPU if self.segments.on_cpu else ELSEWHERE
        chunks = self.segments.chunks(max(1, chunking.activations // self.num_outputs))
        if not chunks:
            return []
        size = -(-len(chunks) // -(-len(chunks) // chunking.chunks_per_span))
        groups = [chunks[k : k + size] for k in range(0, len(chunks), size)]
        return [Span((group[0][0], group[-1][1]), group) for group in groups]


def aggregate_hybrid(
    plan: HybridPlan,
    x_source: Float[Tensor, "nodes coefficients channels"],
    x_target: Float[Tensor, "nodes coefficients channels"],
    f: Float[Tensor, "nodes invariant"],
    edge_features: Float[Tensor, "edges edge_channels"],
) -> Float[Tensor, "nodes coefficients channels"]:
    """Sum of eq. 11 over the edges into each atom.

    ``x_source`` and ``x_target`` may be the same tensor; with extra linear layers they differ.
    """
    message = plan.message
    projections = _projections(plan, x_source, x_target)
    u_source = message.equivariant.reduce(x_source)
    u_target = u_source if x_target is x_source else message.equivariant.reduce(x_target)
    matrices = plan.gates.matrices()
    weights = [p for network in message.networks for p in network.parameters()]
    return _Aggregate.apply(
        plan, len(projections), len(matrices), x_source, x_target, u_source, u_target, f, edge_features,
        *projections, *matrices, *weights, *plan.gates.parameters(),
    )  # fmt: skip


def _projections(plan: HybridPlan, x_source: Tensor, x_target: Tensor) -> list[Tensor]:
    """``W x`` of each network, per atom: for sources and for targets. Empty tensors where none is needed."""
    message = plan.message
    inputs = {Role.SOURCE: x_source, Role.TARGET: x_target}
    projections: list[Tensor] = []
    for index, network in enumerate(message.networks):
        for role, x in inputs.items():
            used = any(
                evaluation.plain and evaluation.network == index and evaluation.role in (role, Role.PAIR)
                for evaluation in plan.evaluations.hidden
            )
            repeated = role is Role.TARGET and x_target is x_source and len(projections[-1])
            if used and repeated:
                projections.append(projections[-1])
            elif used:
                rows = x[:, message.kept].flatten(1)
                projections.append(linear(rows, network.first.weight, tf32=plan.compute.tf32))
            else:
                projections.append(x.new_zeros(0))
    return projections


class _Aggregate(torch.autograd.Function):
    """Forward and backward over chunks of atoms; see :func:`aggregate_hybrid`."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, plan: HybridPlan, num_projections: int, num_matrices: int,
        x_source: Tensor, x_target: Tensor, u_source: Tensor, u_target: Tensor, f: Tensor, edge_features: Tensor,
        *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.plan, ctx.counts, ctx.kept = plan, (num_projections, num_matrices), []
        ctx.save_for_backward(x_source, x_target, u_source, u_target, f, edge_features, *tensors)
        with full_precision(x_target):
            return _forward(ctx, x_source, x_target, u_source, u_target, f, edge_features, *tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        plan = ctx.plan
        if plan is None:
            raise RuntimeError(
                "a second backward pass (retain_graph) through messages whose activations the first has freed: compute "
                "the prediction again, or set model.activations to recompute"
            )
        if plan.keep_activations:
            ctx.plan = None
        # A caller may still be inside autocast; the chunk code chooses its own dtypes.
        with full_precision(grad_out):
            gradients = _backward(ctx, plan, grad_out.contiguous())
        plan.workspace.clear()
        return gradients


def _forward(
    ctx: Any, x_source: Tensor, x_target: Tensor, u_source: Tensor, u_target: Tensor, f: Tensor, edge_features: Tensor,
    *tensors: Tensor,
) -> Tensor:  # fmt: skip
    plan, out = ctx.plan, torch.zeros_like(x_target)
    projections, matrices, weights, _ = _split(plan, ctx.counts, tensors)
    networks = [NeuralMatrices(network, plan.compute) for network in weights]
    for span in plan.spans:
        first, last = plan.segments.edge_range(span.nodes)
        gates = plan.gates(u_source, u_target, f, edge_features[first:last], matrices, first)
        if gates.full is not None:
            plan.segments.collect(gates.full.term.mT, gates.full.attention.unsqueeze(1), span.nodes, out)
        for nodes in span.chunks:
            start, end = plan.segments.edge_range(nodes)
            chunk = NeuralChunk(plan, nodes, projections, networks, gates.neural.constants(start - first, end - first))
            rows = gates.low.new_zeros(end - start, plan.output_matrices.shape[1], gates.low.shape[2])
            rows[:, plan.low_positions] = gates.low[start - first : end - first]
            chunk.forward(x_source, x_target, plan.keep_activations, out=rows[:, : plan.num_neural_rows])
            plan.segments.collect(plan.output_matrices[start:end], rows, nodes, out)
            if chunk.kept is not None:
                ctx.kept.append(chunk.kept)
    return out


def _backward(ctx: Any, plan: HybridPlan, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x_source, x_target, u_source, u_target, f, edge_features, *tensors = ctx.saved_tensors
    projections, matrices, weights, _ = _split(plan, ctx.counts, tensors)
    networks = [NeuralMatrices(network, plan.compute) for network in weights]
    totals = [torch.zeros_like(t) for t in ctx.saved_tensors]
    grad_x_source, grad_x_target, grad_u_source, grad_u_target, grad_f, grad_features, *grad_tensors = totals
    grad_projections, grad_matrices, grad_weights, grad_parameters = _split(plan, ctx.counts, grad_tensors)
    for span in plan.spans:
        first, last = plan.segments.edge_range(span.nodes)
        with torch.enable_grad():
            leaves = (u_source, u_target, f, edge_features[first:last], *matrices)
            inputs = [t.detach().requires_grad_() for t in leaves]
            gates = plan.gates(inputs[0], inputs[1], inputs[2], inputs[3], inputs[4:], first)
        parts = []
        for nodes in span.chunks:
            start, end = plan.segments.edge_range(nodes)
            neural = gates.neural.constants(start - first, end - first)
            # Out of the list, so that a chunk's activations go as soon as they have been used.
            kept = ctx.kept.pop(0) if plan.keep_activations else None
            chunk = NeuralChunk(plan, nodes, projections, networks, neural, kept)
            grad_rows = plan.segments.spread(plan.output_matrices[start:end], grad_out, nodes)
            grad_gates = chunk.backward(
                grad_rows[:, : plan.num_neural_rows], (x_source, x_target), (grad_x_source, grad_x_target),
                grad_projections, grad_weights,
            )  # fmt: skip
            parts.append([*grad_gates, grad_rows[:, plan.low_positions]])
        values, gradients = gates.tensors(), [torch.cat(part) for part in zip(*parts)]
        if gates.full is not None:
            term, attention = (t.detach() for t in gates.full)
            gradients.append(plan.segments.spread(attention.unsqueeze(1), grad_out.mT.contiguous(), span.nodes).mT)
            gradients.append(plan.segments.spread(term.mT, grad_out, span.nodes).squeeze(1))
        sums = [grad_u_source, grad_u_target, grad_f, grad_features[first:last], *grad_matrices, *grad_parameters]
        # Fixed attention coefficients depend on nothing, and frozen parameters need no gradient.
        live = [k for k, value in enumerate(values) if value.requires_grad]
        wanted = [(total, t) for total, t in zip(sums, [*inputs, *plan.gates.parameters()]) if t.requires_grad]
        found = torch.autograd.grad(
            [values[k] for k in live], [t for _, t in wanted], [gradients[k] for k in live], allow_unused=True
        )
        for (total, _), part in zip(wanted, found):
            if part is not None:
                total.add_(part)
    return (None, None, None, *totals)


def _split(
    plan: HybridPlan, counts: tuple[int, int], tensors: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[NeuralWeights], list[Tensor]]:
    """Separate the flat arguments of ``_Aggregate``: projections, product matrices, networks, gate parameters."""
    num_projections, num_matrices = counts
    projections = list(tensors[:num_projections])
    matrices = list(tensors[num_projections : num_projections + num_matrices])
    rest = list(tensors)[num_projections + num_matrices :]
    count = len(plan.message.networks)
    weights = [NeuralWeights(*rest[4 * k : 4 * k + 4]) for k in range(count)]
    return projections, matrices, weights, rest[4 * count :]
