"""Eq. 11 summed over neighbours, in cache-sized chunks of edges with a hand-written backward pass.

Equal to :class:`~fairchem_hdgnn.hdgnn.message.HybridMessage` followed by a sum over edges, which tests hold it to in
value and gradient. What differs is the order of the work (:mod:`~fairchem_hdgnn.hdgnn.evaluations`,
:mod:`~fairchem_hdgnn.so3.segments`) and that the messages of different chunks never exist at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from fairchem_hdgnn.hdgnn.evaluations import Evaluations, Role, plan_evaluations
from fairchem_hdgnn.hdgnn.neural_chunk import NeuralChunk, NeuralMatrices, NeuralWeights, Workspace
from fairchem_hdgnn.nn.precision import full_precision
from fairchem_hdgnn.so3.layout import degrees_and_orders
from fairchem_hdgnn.so3.segments import FusedSegments, Segments

if TYPE_CHECKING:
    from fairchem_hdgnn.hdgnn.layer import EdgeSet, MessageBlock

ACTIVATIONS_PER_CHUNK = 1_280_000
"""Numbers in the largest temporary of a chunk: enough for an efficient matrix product, few enough for the cache."""


@dataclass
class Gates:
    """What the strictly equivariant and invariant parts give for a chunk of edges.

    Attributes:
        attention: a_1..a_3 of the learned terms.
        c_single: invariant features of NN_1.
        c_pair: invariant features of NN_2.
        low: a_4 times the equivariant term, edge frame, degrees up to L'.
        full: the authors' fifth term before its coefficient, global frame; absent without it.
        full_attention: a_5.
    """

    attention: Float[Tensor, "edges three channels"]
    c_single: Float[Tensor, "edges hidden"]
    c_pair: Float[Tensor, "edges hidden"]
    low: Float[Tensor, "edges low_rows channels"]
    full: Tensor | None
    full_attention: Tensor | None

    def tensors(self) -> list[Tensor]:
        """The attributes that are present, in order."""
        values = [self.attention, self.c_single, self.c_pair, self.low, self.full, self.full_attention]
        return [value for value in values if value is not None]


class HybridPlan:
    """Constants of one message block on one set of edges for one forward pass.

    Args:
        block: the message block; its message is a ``HybridMessage``.
        edges: edges sorted by target.
        num_nodes: number of atoms.
        only_scalars: whether x has only l = 0.
        keep_activations: store the networks' activations for the backward pass instead of computing them again.
        compute_dtype: of the networks' matrix products.
    """

    def __init__(
        self,
        block: MessageBlock,
        edges: EdgeSet,
        num_nodes: int,
        only_scalars: bool,
        keep_activations: bool,
        compute_dtype: torch.dtype,
    ) -> None:
        message: Any = block.message
        self.block, self.message, self.edges = block, message, edges
        self.keep_activations, self.compute_dtype = keep_activations, compute_dtype
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
        self.chunks = self.segments.chunks(max(1, ACTIVATIONS_PER_CHUNK // self.num_outputs))
        self.low_positions = torch.tensor([rows.index(row) for row in low_rows], device=edges.source.device)
        rotation = edges.rotation
        self.neural_matrices = rotation.rows(size.lmax, size.mmax)
        self.output_matrices = rotation.selected(size.lmax, rows)

    def gates(
        self,
        u_source: Tensor,
        u_target: Tensor,
        f: Tensor,
        features: Tensor,
        matrices: list[Tensor],
        start: int,
        end: int,
    ) -> Gates:
        """Attention, invariant features and equivariant terms of the edges ``start:end``; u is the product's factor."""
        message, edges = self.message, self.edges
        source, target = edges.source[start:end], edges.target[start:end]
        attention = self.block.attention(f, features, source, target).expand(-1, -1, message.channels)
        size = message.size
        pair = u_source[source] + u_target[target]
        rows = edges.rotation.rows(size.lmax, size.lmax_metp)[start:end]
        low = message.equivariant.product(torch.bmm(rows, pair), matrices)
        full = full_attention = None
        if message.full_degree is not None:
            rows = edges.rotation.rows(size.lmax, size.lmax)[start:end]
            mean = pair.mean(dim=-1, keepdim=True)
            full = torch.bmm(rows.mT, message.full_degree.product(torch.bmm(rows, mean)))
            full_attention = attention[:, 4].contiguous()
        return Gates(
            attention[:, :3],
            message.single_features(features),
            message.pair_features(features),
            low * attention[:, 3:4],
            full,
            full_attention,
        )

    def gate_parameters(self) -> list[Tensor]:
        """Parameters that :meth:`gates` uses besides the product's matrices."""
        message = self.message
        modules = [self.block.attention, message.single_features, message.pair_features]
        parameters = [p for module in modules for p in module.parameters()]
        parameters.append(message.equivariant.product.bias)
        if message.full_degree is not None:
            parameters.extend(message.full_degree.parameters())
        return parameters


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
    matrices = message.equivariant.product.product.order_matrices()
    weights = [p for network in message.networks for p in network.parameters()]
    return _Aggregate.apply(
        plan, len(projections), len(matrices), x_source, x_target, u_source, u_target, f, edge_features,
        *projections, *matrices, *weights, *plan.gate_parameters(),
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
                projections.append(linear(x[:, message.kept].flatten(1), network.first.weight))
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
        out = torch.zeros_like(x_target)
        projections, matrices, weights, _ = _split(plan, num_projections, num_matrices, tensors)
        networks = [NeuralMatrices(network, plan.compute_dtype) for network in weights]
        kept = []
        for nodes in plan.chunks:
            start, end = plan.segments.edge_range(nodes)
            gates = plan.gates(u_source, u_target, f, edge_features[start:end], matrices, start, end)
            chunk = NeuralChunk(plan, nodes, projections, networks, gates)
            rows = gates.low.new_zeros(end - start, plan.output_matrices.shape[1], gates.low.shape[2])
            rows[:, plan.low_positions] = gates.low
            chunk.forward(x_source, x_target, plan.keep_activations, out=rows[:, : plan.num_neural_rows])
            plan.segments.collect(plan.output_matrices[start:end], rows, nodes, out)
            if gates.full is not None and gates.full_attention is not None:
                plan.segments.collect(gates.full.mT, gates.full_attention.unsqueeze(1), nodes, out)
            kept.append(chunk.kept)
        ctx.plan, ctx.counts, ctx.kept = plan, (num_projections, num_matrices), kept
        ctx.save_for_backward(x_source, x_target, u_source, u_target, f, edge_features, *tensors)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # A caller may still be inside autocast; the chunk code chooses its own dtypes.
        with full_precision(grad_out):
            return _backward(ctx, grad_out.contiguous())


def _backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    plan = ctx.plan
    x_source, x_target, u_source, u_target, f, edge_features, *tensors = ctx.saved_tensors
    num_projections, num_matrices = ctx.counts
    projections, matrices, weights, _ = _split(plan, num_projections, num_matrices, tensors)
    networks = [NeuralMatrices(network, plan.compute_dtype) for network in weights]
    totals = [torch.zeros_like(t) for t in ctx.saved_tensors]
    grad_x_source, grad_x_target, grad_u_source, grad_u_target, grad_f, grad_features, *grad_tensors = totals
    grad_projections, grad_matrices, grad_weights, grad_parameters = _split(
        plan, num_projections, num_matrices, grad_tensors
    )
    for nodes, kept in zip(plan.chunks, ctx.kept):
        start, end = plan.segments.edge_range(nodes)
        with torch.enable_grad():
            leaves = (u_source, u_target, f, edge_features[start:end], *matrices)
            inputs = [t.detach().requires_grad_() for t in leaves]
            gates = plan.gates(*inputs[:4], inputs[4:], start, end)
        values = gates.tensors()
        chunk = NeuralChunk(plan, nodes, projections, networks, gates, kept)
        grad_rows = plan.segments.spread(plan.output_matrices[start:end], grad_out, nodes)
        gradients = chunk.backward(
            grad_rows[:, : plan.num_neural_rows], (x_source, x_target), (grad_x_source, grad_x_target),
            grad_projections, grad_weights,
        )  # fmt: skip
        gradients.append(grad_rows[:, plan.low_positions])
        if gates.full is not None and gates.full_attention is not None:
            target = plan.segments.spread(gates.full.detach().mT, grad_out, nodes).squeeze(1)
            coefficients = gates.full_attention.detach().unsqueeze(1)
            gradients.append(plan.segments.spread(coefficients, grad_out.mT.contiguous(), nodes).mT)
            gradients.append(target)
        sums = [grad_u_source, grad_u_target, grad_f, grad_features[start:end], *grad_matrices, *grad_parameters]
        # Fixed attention coefficients depend on nothing, and frozen parameters need no gradient.
        live = [k for k, value in enumerate(values) if value.requires_grad]
        wanted = [(total, t) for total, t in zip(sums, [*inputs, *plan.gate_parameters()]) if t.requires_grad]
        found = torch.autograd.grad(
            [values[k] for k in live], [t for _, t in wanted], [gradients[k] for k in live], allow_unused=True
        )
        for (total, _), part in zip(wanted, found):
            if part is not None:
                total.add_(part)
    return (None, None, None, *totals)


def _split(
    plan: HybridPlan, num_projections: int, num_matrices: int, tensors: Sequence[Tensor]
) -> tuple[list[Tensor], list[Tensor], list[NeuralWeights], list[Tensor]]:
    """Separate the flat arguments of ``_Aggregate``: projections, product matrices, networks, gate parameters."""
    projections = list(tensors[:num_projections])
    matrices = list(tensors[num_projections : num_projections + num_matrices])
    rest = list(tensors)[num_projections + num_matrices :]
    count = len(plan.message.networks)
    weights = [NeuralWeights(*rest[4 * k : 4 * k + 4]) for k in range(count)]
    return projections, matrices, weights, rest[4 * count :]
