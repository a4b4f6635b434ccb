"""The learned terms of eq. 11 for one chunk of edges: forward, and backward by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from fairchem_hdgnn.hdgnn.evaluations import Evaluation, Role

if TYPE_CHECKING:
    from fairchem_hdgnn.hdgnn.fast_message import Gates, HybridPlan


class NeuralWeights(NamedTuple):
    """Parameters of one ``GatedMlp``."""

    first: Float[Tensor, "hidden inputs"]
    first_bias: Float[Tensor, "hidden"]
    second: Float[Tensor, "outputs hidden"]
    second_bias: Float[Tensor, "outputs"]


class Activations(NamedTuple):
    """What a chunk may keep for its backward pass."""

    before_silu: list[Tensor]
    results: list[Tensor]


def _silu_backward(gradient: Tensor, before: Tensor) -> Tensor:
    return torch.ops.aten.silu_backward(gradient, before)


class NeuralChunk:
    """One chunk of edges.

    Args:
        plan: constants of the block.
        nodes: range of target atoms.
        projections: ``W x`` per atom: for network k at 2 k for sources, at 2 k + 1 for targets.
        weights: of each network.
        gates: attention and invariant features.
        activations: kept from the forward pass; computed again if absent.
    """

    def __init__(
        self,
        plan: HybridPlan,
        nodes: tuple[int, int],
        projections: list[Tensor],
        weights: list[NeuralWeights],
        gates: Gates,
        activations: Activations | None = None,
    ) -> None:
        self.plan, self.nodes, self.projections, self.weights = plan, nodes, projections, weights
        self.activations = activations
        self.start, self.end = plan.segments.edge_range(nodes)
        self.source = plan.edges.source[self.start : self.end]
        self.target = plan.edges.target[self.start : self.end]
        self.attention = gates.attention.detach()
        self.c_single, self.c_pair = gates.c_single.detach(), gates.c_pair.detach()

    def _c(self, evaluation: Evaluation) -> Tensor:
        return self.c_pair if evaluation.uses_pair_features else self.c_single

    def _rotated(self, x_source: Tensor, x_target: Tensor) -> dict[Role, Tensor]:
        """``D x`` of both atoms and of the pair, rows flattened; empty where nothing needs rotating."""
        plan = self.plan
        if not plan.evaluations.rotates:
            return {}
        matrices = plan.neural_matrices[self.start : self.end]
        source = torch.bmm(matrices, x_source[self.source]).flatten(1)
        target = plan.segments.spread(matrices, x_target, self.nodes).flatten(1)
        return {Role.SOURCE: source, Role.TARGET: target, Role.PAIR: source + target}

    def _before_silu(self, rotated: dict[Role, Tensor]) -> list[Tensor]:
        """First layer of each evaluation."""
        products: dict[tuple[int, Role], Tensor] = {}
        result = []
        for evaluation in self.plan.evaluations.hidden:
            weights = self.weights[evaluation.network]
            value = weights.first_bias.expand(len(self.source), -1)
            if evaluation.plain:
                value = value + evaluation.plain * self._plain(evaluation)
            if evaluation.rotated:
                key = (evaluation.network, evaluation.role)
                if key not in products:
                    products[key] = rotated[evaluation.role] @ weights.first.T
                value = value + products[key]
            result.append(value)
        return result

    def _plain(self, evaluation: Evaluation) -> Tensor:
        """``W x`` gathered to edges."""
        of_source, of_target = self.projections[2 * evaluation.network : 2 * evaluation.network + 2]
        if evaluation.role is Role.SOURCE:
            return of_source[self.source]
        if evaluation.role is Role.TARGET:
            return of_target[self.target]
        return of_source[self.source] + of_target[self.target]

    def _results(self, hidden: list[Tensor]) -> list[Tensor]:
        """Second layer of each group, before the optional activation."""
        results = []
        for group in self.plan.evaluations.groups:
            weights = self.weights[group.network]
            summed = hidden[group.evaluations[0]]
            for k in group.evaluations[1:]:
                summed = summed + hidden[k]
            bias = weights.second_bias
            results.append(torch.addmm(bias * len(group.evaluations), summed, weights.second.T))
        return results

    def forward(self, x_source: Tensor, x_target: Tensor, keep: bool) -> Float[Tensor, "edges rows channels"]:
        """``a_1 (...) + a_2 (...) + a_3 (...)`` in the edge frame."""
        before = self._before_silu(self._rotated(x_source, x_target))
        hidden = [silu(value) * self._c(e) for value, e in zip(before, self.plan.evaluations.hidden)]
        results = self._results(hidden)
        if keep:
            self.activations = Activations(before, results)
        return self._gated(results)

    def _gated(self, results: list[Tensor]) -> Tensor:
        activation = self.plan.message.output_activation
        sums: list[Tensor | None] = [None] * 3
        for group, result in zip(self.plan.evaluations.groups, results):
            value = silu(result) if activation else result
            for term in group.terms:
                present = sums[term]
                sums[term] = value if present is None else present + value
        total: Tensor | None = None
        for term, value in enumerate(sums):
            if value is not None:
                factor = self.attention[:, term : term + 1]
                value = value.unflatten(-1, (self.plan.num_neural_rows, -1))
                total = value * factor if total is None else torch.addcmul(total, value, factor)
        if total is None:
            raise AssertionError("eq. 11 has at least one learned term")
        return total

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
        before = self._before_silu(rotated) if self.activations is None else self.activations.before_silu
        activated = [silu(value) for value in before]
        hidden = [value * self._c(e) for value, e in zip(activated, plan.evaluations.hidden)]
        results = self._results(hidden) if self.activations is None else self.activations.results

        grad_attention = torch.empty_like(self.attention)
        grad_values = [grad_rows * self.attention[:, term : term + 1] for term in range(3)]
        grad_hidden: list[Tensor | None] = [None] * len(hidden)
        term_sums: list[Tensor | None] = [None] * 3
        for group, result in zip(plan.evaluations.groups, results):
            grad_result = sum((grad_values[term] for term in group.terms[1:]), grad_values[group.terms[0]])
            grad_result = grad_result.flatten(1)
            value = result
            if plan.message.output_activation:
                value, grad_result = silu(result), _silu_backward(grad_result, result)
            for term in group.terms:
                present = term_sums[term]
                term_sums[term] = value if present is None else present + value
            self._backward_second(group.network, group.evaluations, grad_result, hidden, grad_hidden, grad_weights)
        for term, value in enumerate(term_sums):
            if value is not None:
                product = grad_rows * value.unflatten(-1, (plan.num_neural_rows, -1))
                torch.sum(product, dim=1, out=grad_attention[:, term])

        grad_c = {False: torch.zeros_like(self.c_single), True: torch.zeros_like(self.c_pair)}
        grad_rotated: dict[Role, Tensor] = {}
        for evaluation, grad, pre, act in zip(plan.evaluations.hidden, grad_hidden, before, activated):
            if grad is None:
                raise AssertionError("every hidden layer feeds a group")
            grad_c[evaluation.uses_pair_features] += grad * act
            grad_before = _silu_backward(grad * self._c(evaluation), pre)
            self._backward_first(evaluation, grad_before, rotated, grad_rotated, grad_projections, grad_weights)
        self._backward_rotation(grad_rotated, grad_x)
        return [grad_attention, grad_c[False], grad_c[True]]

    def _backward_second(
        self,
        network: int,
        evaluations: tuple[int, ...],
        grad_result: Tensor,
        hidden: list[Tensor],
        grad_hidden: list[Tensor | None],
        grad_weights: list[NeuralWeights],
    ) -> None:
        weights, total = self.weights[network], grad_weights[network]
        summed = hidden[evaluations[0]]
        for k in evaluations[1:]:
            summed = summed + hidden[k]
        total.second.addmm_(grad_result.T, summed)
        total.second_bias.add_(grad_result.sum(0), alpha=len(evaluations))
        grad_sum = grad_result @ weights.second
        for k in evaluations:
            present = grad_hidden[k]
            grad_hidden[k] = grad_sum if present is None else present + grad_sum

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
            total.first.addmm_(grad_before.T, rotated[evaluation.role])
            back = grad_before @ weights.first
            present = grad_rotated.get(evaluation.role)
            grad_rotated[evaluation.role] = back if present is None else present.add_(back)

    def _backward_rotation(self, grad_rotated: dict[Role, Tensor], grad_x: tuple[Tensor, Tensor]) -> None:
        """Gradients of x through ``D x``."""
        if not grad_rotated:
            return
        plan, rows = self.plan, self.plan.num_neural_rows
        pair = grad_rotated[Role.PAIR]
        matrices = plan.neural_matrices[self.start : self.end]
        source = (grad_rotated[Role.SOURCE] + pair).unflatten(-1, (rows, -1))
        target = (grad_rotated[Role.TARGET] + pair).unflatten(-1, (rows, -1))
        grad_x[0].index_add_(0, self.source, torch.bmm(matrices.mT, source))
        plan.segments.collect(matrices, target, self.nodes, grad_x[1])
