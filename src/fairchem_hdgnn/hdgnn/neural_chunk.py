"""The learned terms of eq. 11 for one chunk of edges: forward, and backward by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from fairchem_hdgnn.hdgnn.evaluations import Evaluation, Group, Role
from fairchem_hdgnn.hdgnn.neural_weights import NeuralMatrices, NeuralWeights
from fairchem_hdgnn.nn.silu import silu_backward, silu_into

if TYPE_CHECKING:
    from fairchem_hdgnn.hdgnn.edge_gates import NeuralGates
    from fairchem_hdgnn.hdgnn.fast_message import HybridPlan


class Kept(NamedTuple):
    """Activations that a chunk stores for its backward pass."""

    before_silu: list[Tensor]
    results: list[Tensor]


class Workspace:
    """Named buffers that chunks use in turn, so that large temporaries stay in the cache and are never reallocated."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def take(self, name: str, like: Tensor, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """An uninitialised matrix; the next call with the same name may overwrite it."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < rows * columns or buffer.dtype != like.dtype:
            buffer = like.new_empty(rows * columns)
            self._buffers[name] = buffer
        return buffer[: rows * columns].view(rows, columns)

    def clear(self) -> None:
        """Give the buffers back."""
        self._buffers.clear()


class NeuralChunk:
    """One chunk of edges.

    Args:
        plan: constants of the block.
        nodes: range of target atoms.
        projections: ``W x`` per atom: for network k at 2 k for sources, at 2 k + 1 for targets.
        weights: of each network.
        gates: attention and invariant features.
        kept: activations stored by the forward pass; computed again if absent.
    """

    def __init__(
        self,
        plan: HybridPlan,
        nodes: tuple[int, int],
        projections: list[Tensor],
        weights: list[NeuralMatrices],
        gates: NeuralGates,
        kept: Kept | None = None,
    ) -> None:
        self.plan, self.nodes, self.projections, self.weights, self.kept = plan, nodes, projections, weights, kept
        self.start, self.end = plan.segments.edge_range(nodes)
        self.source = plan.edges.source[self.start : self.end]
        self.target = plan.edges.target[self.start : self.end]
        self.c_single, self.c_pair = gates.c_single, gates.c_pair
        self.factors = [_factor(gates.attention, group) for group in plan.evaluations.groups]

    def _c(self, evaluation: Evaluation) -> Tensor:
        return self.c_pair if evaluation.uses_pair_features else self.c_single

    def _cast(self, value: Tensor) -> Tensor:
        """In the dtype of large matrix products."""
        return value.to(self.plan.compute.dtype)

    def _rows(self, flat: Float[Tensor, "edges outputs"]) -> Float[Tensor, "edges rows channels"]:
        return flat.unflatten(-1, (self.plan.num_neural_rows, -1))

    def _rotated(self, x_source: Tensor, x_target: Tensor) -> dict[Role, Tensor]:
        """``D x`` of both atoms and of the pair, rows flattened; empty where nothing needs rotating."""
        plan = self.plan
        if not plan.evaluations.rotates:
            return {}
        matrices = plan.neural_matrices[self.start : self.end]
        source = plan.segments.gather(matrices, x_source, self.source).flatten(1)
        target = plan.segments.spread(matrices, x_target, self.nodes).flatten(1)
        return {Role.SOURCE: source, Role.TARGET: target, Role.PAIR: source + target}

    def _before_silu(self, rotated: dict[Role, Tensor]) -> list[Tensor]:
        """First layer of each evaluation."""
        result = []
        for evaluation in self.plan.evaluations.hidden:
            weights = self.weights[evaluation.network]
            value = weights.first_bias.expand(len(self.source), -1)
            if evaluation.plain:
                value = torch.add(value, self._plain(evaluation), alpha=evaluation.plain)
            if evaluation.rotated:
                value = weights.first.added_product(self._cast(rotated[evaluation.role]), value)
            result.append(value)
        return result

    def _plain(self, evaluation: Evaluation) -> Tensor:
        """``W x`` gathered to edges."""
        of_source, of_target = self.projections[2 * evaluation.network : 2 * evaluation.network + 2]
        if evaluation.role is Role.SOURCE:
            return of_source.index_select(0, self.source)
        if evaluation.role is Role.TARGET:
            return of_target.index_select(0, self.target)
        return of_source.index_select(0, self.source) + of_target.index_select(0, self.target)

    def _result(self, group: Group, hidden: list[Tensor], *, activated: bool = False) -> Tensor:
        """Second layer of a group, with or without its activation."""
        weights = self.weights[group.network]
        count = len(group.evaluations)
        bias = weights.second_bias if count == 1 else count * weights.second_bias
        return weights.second.product(self._cast(_summed(hidden, group)), bias, activated=activated)

    def forward(
        self, x_source: Tensor, x_target: Tensor, keep: bool, out: Float[Tensor, "edges rows channels"]
    ) -> None:
        """Add ``a_1 (...) + a_2 (...) + a_3 (...)`` in the edge frame to ``out``."""
        plan = self.plan
        before = self._before_silu(self._rotated(x_source, x_target))
        hidden = [silu(value).mul_(self._c(e)) for value, e in zip(before, plan.evaluations.hidden)]
        results = []
        activates = plan.message.output_activation
        for group, factor in zip(plan.evaluations.groups, self.factors):
            # What the backward pass needs is the result before its activation.
            result = self._result(group, hidden, activated=activates and not keep)
            value = result
            if keep:
                results.append(result)
            if activates and keep:
                buffer = plan.workspace.take("result", result[:0], *result.shape)
                value = silu_into(result, out=buffer)
            out.addcmul_(self._rows(value), factor)
        if keep:
            self.kept = Kept(before, results)

    def backward(
        self,
        grad_rows: Float[Tensor, "edges rows channels"],
        x: tuple[Tensor, Tensor],
        grad_x: tuple[Tensor, Tensor],
        grad_projections: list[Tensor],
        grad_weights: list[NeuralWeights],
    ) -> list[Tensor]:
        """Add gradients of features, projections and weights in place; return those of a_1..a_3 and both c."""
        plan = self.plan
        rotated = self._rotated(*x)
        before = self._before_silu(rotated) if self.kept is None else self.kept.before_silu
        activated = [silu(value) for value in before]
        hidden = [value * self._c(e) for value, e in zip(activated, plan.evaluations.hidden)]

        grad_attention = grad_rows.new_zeros(grad_rows.shape[0], 3, grad_rows.shape[2])
        grad_hidden: dict[int, Tensor] = {}
        like, size = self._cast(hidden[0][:0]), (len(self.source), plan.num_outputs)
        for index, (group, factor) in enumerate(zip(plan.evaluations.groups, self.factors)):
            result = self.kept.results[index] if self.kept else self._result(group, hidden)
            grad_result = plan.workspace.take("gradient", like, *size)
            torch.mul(grad_rows, factor, out=self._rows(grad_result))
            value = result
            if plan.message.output_activation:
                value = plan.workspace.take("activated", like, *size)
                silu_into(result, out=value)
                silu_backward(grad_result, result, out=grad_result)
            product = plan.workspace.take("product", grad_rows[:0], *size)
            grad_factor = torch.mul(grad_rows, self._rows(value), out=self._rows(product)).sum(1)
            for term in group.terms:
                grad_attention[:, term] += grad_factor
            self._backward_second(group, grad_result, hidden, grad_hidden, grad_weights[group.network])

        grad_c = {False: torch.zeros_like(self.c_single), True: torch.zeros_like(self.c_pair)}
        grad_rotated: dict[Role, Tensor] = {}
        for index, evaluation in enumerate(plan.evaluations.hidden):
            grad = grad_hidden[index]
            grad_c[evaluation.uses_pair_features].addcmul_(grad, activated[index])
            grad_before = silu_backward(grad * self._c(evaluation), before[index])
            self._backward_first(evaluation, grad_before, rotated, grad_rotated, grad_projections, grad_weights)
        self._backward_rotation(grad_rotated, grad_x)
        return [grad_attention, grad_c[False], grad_c[True]]

    def _backward_second(
        self,
        group: Group,
        grad_result: Tensor,
        hidden: list[Tensor],
        grad_hidden: dict[int, Tensor],
        total: NeuralWeights,
    ) -> None:
        self.plan.compute.add_product(total.second, grad_result.T, self._cast(_summed(hidden, group)))
        total.second_bias.add_(grad_result.sum(0), alpha=len(group.evaluations))
        grad_sum = self.weights[group.network].second_transposed.product(grad_result).to(hidden[0].dtype)
        for k in group.evaluations:
            grad_hidden[k] = grad_hidden[k] + grad_sum if k in grad_hidden else grad_sum

    def _backward_first(
        self,
        evaluation: Evaluation,
        grad_before: Tensor,
        rotated: dict[Role, Tensor],
        grad_rotated: dict[Role, Tensor],
        grad_projections: list[Tensor],
        grad_weights: list[NeuralWeights],
    ) -> None:
        weights, total = self.weights[evaluation.network], grad_weights[evaluation.network]
        total.first_bias.add_(grad_before.sum(0))
        if evaluation.plain:
            of_source, of_target = grad_projections[2 * evaluation.network : 2 * evaluation.network + 2]
            if evaluation.role in (Role.SOURCE, Role.PAIR):
                of_source.index_add_(0, self.source, grad_before, alpha=evaluation.plain)
            if evaluation.role in (Role.TARGET, Role.PAIR):
                of_target.index_add_(0, self.target, grad_before, alpha=evaluation.plain)
        if evaluation.rotated:
            grad_product = self._cast(grad_before)
            self.plan.compute.add_product(total.first, grad_product.T, self._cast(rotated[evaluation.role]))
            back = weights.first_transposed.product(grad_product).to(grad_before.dtype)
            present = grad_rotated.get(evaluation.role)
            grad_rotated[evaluation.role] = back if present is None else present.add_(back)

    def _backward_rotation(self, grad_rotated: dict[Role, Tensor], grad_x: tuple[Tensor, Tensor]) -> None:
        """Gradients of x through ``D x``."""
        if not grad_rotated:
            return
        plan, pair = self.plan, grad_rotated[Role.PAIR]
        matrices = plan.neural_matrices[self.start : self.end]
        source = self._rows(grad_rotated[Role.SOURCE].add_(pair))
        target = self._rows(grad_rotated[Role.TARGET].add_(pair))
        grad_x[0].index_add_(0, self.source, torch.bmm(matrices.mT, source))
        plan.segments.collect(matrices, target, self.nodes, grad_x[1])


def _factor(attention: Tensor, group: Group) -> Float[Tensor, "edges 1 channels"]:
    """Sum of the coefficients of the terms that take a group's result."""
    first, *others = (attention[:, term : term + 1] for term in group.terms)
    return sum(others, first)


def _summed(hidden: list[Tensor], group: Group) -> Tensor:
    """Sum of the hidden layers that share a second layer."""
    total = hidden[group.evaluations[0]]
    for k in group.evaluations[1:]:
        total = total + hidden[k]
    return total
