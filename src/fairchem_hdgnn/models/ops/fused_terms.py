"""The learned terms of eq. 11 on a GPU: matrix products, and one kernel for everything between two of them.

As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.add_terms`. Terms of one network, of x_j and of x_i, go through it
together. Of each edge, ``W_1 D x`` is stored for the backward pass, in the networks' dtype, beside c and a; ``D x``,
hidden layers and results are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.edges import EdgeBlock
from fairchem_hdgnn.models.kernels.combine import MOST_RESULTS, combine, combine_backward
from fairchem_hdgnn.models.kernels.hidden import gradients_of_hidden, hidden
from fairchem_hdgnn.models.ops.gated_network import Evaluations, GatedTerm, Places, every_row
from fairchem_hdgnn.models.ops.passes import Pass


def add_terms(
    run: Pass,
    block: EdgeBlock,
    low: Float[Tensor, "edges low_rows channels"],
    places: Places,
    terms: Sequence[GatedTerm],
) -> Float[Tensor, "edges rows channels"]:
    """``low``, with its rows in their places, plus the terms, whose c is before its SiLU.

    All networks have a SiLU at their end, or none has.
    """
    groups = _groups(terms)
    for start in range(0, len(groups), MOST_RESULTS):
        part = groups[start : start + MOST_RESULTS]
        call = _Call(run, block, places, [_Options.of(group) for group in part])
        tensors = [tensor for group in part for tensor in _Inputs.of(group, low.shape[2]).flat()]
        low = _AddTerms.apply(call, low, *tensors)
        if start + MOST_RESULTS < len(groups):
            places = every_row(low.shape[1], low.device)
    return low


def _groups(terms: Sequence[GatedTerm]) -> list[list[GatedTerm]]:
    """Each term, or two that follow each other and are of x_j and of x_i in one network."""
    groups: list[list[GatedTerm]] = []
    for term in terms:
        before = groups[-1] if groups else []
        if len(before) == 1 and _are_sides(before[0], term):
            before.append(term)
        else:
            groups.append([term])
    return groups


def _are_sides(first: GatedTerm, second: GatedTerm) -> bool:
    if first.network is not second.network or first.evaluations != second.evaluations or first.c is not second.c:
        return False
    (_, target), (source, _) = first.projected, second.projected
    return target is None and source is None and (first.rotated is None) == (second.rotated is None)


class _Options(NamedTuple):
    evaluations: Evaluations
    activated: bool
    again: list[Callable[[], Tensor] | None]

    @classmethod
    def of(cls, group: Sequence[GatedTerm]) -> _Options:
        again = [None if term.rotated is None else term.rotated.again for term in group]
        return cls(group[0].evaluations, group[0].network.output_activation, again)

    @property
    def sides(self) -> int:
        return len(self.again)

    @property
    def factors(self) -> list[int]:
        return [factor for evaluation in self.evaluations for factor in evaluation]


class _Inputs(NamedTuple):
    of_source: Any
    of_target: Any
    c: Any
    first: Any
    first_bias: Any
    second: Any
    second_bias: Any
    rotated: list[Any]
    a: list[Any]

    @classmethod
    def of(cls, group: Sequence[GatedTerm], channels: int) -> _Inputs:
        network = group[0].network
        sees_rotated = any(r for r, _ in group[0].evaluations)
        rotated = [term.rotated.value if term.rotated is not None and sees_rotated else None for term in group]
        weights = (network.first.weight, network.first.bias, network.second.weight, network.second.bias)
        projected = (group[0].projected[0], group[-1].projected[1])
        return cls(*projected, group[0].c, *weights, rotated, [term.a.expand(-1, channels) for term in group])

    def flat(self) -> list[Any]:
        return [*self[:7], *self.rotated, *self.a]


class _Call(NamedTuple):
    run: Pass
    block: EdgeBlock
    places: Places
    options: list[_Options]

    def of_groups(self, tensors: Iterable[Any]) -> list[_Inputs]:
        """The inverse of :meth:`_Inputs.flat`."""
        rest = iter(tensors)

        def take(count: int) -> list[Any]:
            return [next(rest) for _ in range(count)]

        return [_Inputs._make([*take(7), take(options.sides), take(options.sides)]) for options in self.options]


class _AddTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, low: Tensor, *tensors: Any) -> Tensor:
        channels, products, results, kept = low.shape[2], [], [], []
        inputs_of_groups = call.of_groups(tensors)
        for options, inputs in zip(call.options, inputs_of_groups):
            product = _first_layer(call, inputs)
            values = hidden(*_hidden_arguments(call, options, inputs, product))
            results.append(_result(call, options, inputs, values, channels))
            products.append(product)
            stored = [None if again is not None else value for value, again in zip(inputs.rotated, options.again)]
            kept += inputs._replace(rotated=stored).flat()
        ctx.call = call
        ctx.save_for_backward(*products, *kept)
        a = [value for inputs in inputs_of_groups for value in inputs.a]
        return combine(low, call.places.low_of_row, call.places.of_low, results, a, call.options[0].activated)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        kept, count = ctx.saved_tensors, len(call.options)
        found: list[Tensor | None] = []
        groups = zip(call.options, call.of_groups(kept[count:]), call.of_groups(ctx.needs_input_grad[2:]), kept[:count])
        for group in groups:
            found += _backward(call, *group, gradient).flat()
        return None, gradient.index_select(1, call.places.of_low), *found


def _first_layer(call: _Call, inputs: _Inputs) -> Float[Tensor, "sides edges hidden"] | None:
    """``W_1 D x`` of each side."""
    if inputs.rotated[0] is None:
        return None
    matrix = call.run.packed(inputs.first)
    rows = [value.flatten(1) for value in inputs.rotated]
    if len(rows) == 1:
        return matrix.product(rows[0]).unsqueeze(0)
    product = rows[0].new_empty(len(rows), len(rows[0]), len(inputs.first))
    with call.run.compute.products():
        for side, values in enumerate(rows):
            torch.mm(values, matrix.weight.T, out=product[side])
    return product


def _hidden_arguments(call: _Call, options: _Options, inputs: _Inputs, product: Tensor | None) -> tuple[Any, ...]:
    block = call.block
    return (
        product, inputs.of_source, inputs.of_target, block.source, block.target, *block.by_source,
        block.target_offsets, inputs.first_bias, inputs.c, options.factors, options.sides, not options.activated,
        call.run.compute.dtype,
    )  # fmt: skip


def _result(
    call: _Call,
    options: _Options,
    inputs: _Inputs,
    values: Float[Tensor, "sides evaluations edges hidden"],
    channels: int,
) -> Float[Tensor, "sides evaluations edges rows channels"]:
    """The second layer before its activation; without one, it is applied to the sum of the evaluations."""
    bias = inputs.second_bias.to(values.dtype)
    if not options.activated:
        bias = len(options.evaluations) * bias
    result = call.run.packed(inputs.second).product(values.flatten(0, 2), bias)
    return result.view(*values.shape[:3], result.shape[1] // channels, channels)


def _backward(
    call: _Call, options: _Options, inputs: _Inputs, wanted: _Inputs, product: Tensor | None, gradient: Tensor
) -> _Inputs:
    """Gradients of a group's inputs; of weights, those that are wanted."""
    run, channels = call.run, gradient.shape[2]
    arguments = _hidden_arguments(call, options, inputs, product)
    values = hidden(*arguments)
    result = _result(call, options, inputs, values, channels)
    of_result, of_a, of_bias = combine_backward(gradient, result, inputs.a, options.activated)
    upstream = of_result.flatten(0, 2).flatten(1)
    of_second_bias = None
    if wanted.second_bias:
        of_second_bias = of_bias.sum(0) * (1 if options.activated else len(options.evaluations))
    of_second = _weight_gradient(run, [upstream], [values.flatten(0, 2)]) if wanted.second else None
    of_hidden = run.packed(inputs.second, transposed=True).product(upstream)
    of_inputs = gradients_of_hidden(of_hidden.view_as(values), arguments)
    of_rotated: list[Tensor | None] = [None] * options.sides
    of_first = None
    if of_inputs.rotated is not None:
        if wanted.first:
            rotated = [value if again is None else again() for value, again in zip(inputs.rotated, options.again)]
            of_first = _weight_gradient(run, of_inputs.rotated.unbind(), [value.flatten(1) for value in rotated])
        matrix = run.packed(inputs.first, transposed=True)
        of_rotated = [matrix.product(of).unflatten(1, (-1, channels)) for of in of_inputs.rotated]
    return _Inputs(
        of_inputs.of_source, of_inputs.of_target, of_inputs.c, of_first, of_inputs.bias, of_second,
        of_second_bias, of_rotated, list(of_a.unbind()),
    )  # fmt: skip


def _weight_gradient(run: Pass, upstream: Sequence[Tensor], inputs: Sequence[Tensor]) -> Tensor:
    """``sum_s upstream_s^T inputs_s`` in float32."""
    with run.compute.products():
        total = (upstream[0].T @ inputs[0]).to(torch.float32)
    for a, b in zip(upstream[1:], inputs[1:]):
        run.compute.add_product(total, a.T, b)
    return total
