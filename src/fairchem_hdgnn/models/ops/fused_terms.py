"""The learned terms of eq. 11 on a GPU: matrix products, and one kernel for everything between two of them.

As :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.add_terms`. Of each edge, only ``W_1 D x`` is stored for the
backward pass, in the networks' dtype; ``D x``, hidden layers and results are computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from fairchem_hdgnn.models.edges import EdgeBlock
from fairchem_hdgnn.models.kernels.combine import MOST_TERMS, combine, combine_backward
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
    """``low``, with its rows in their places, plus the terms; all networks have a SiLU at their end, or none has."""
    channels = low.shape[2]
    for start in range(0, len(terms), MOST_TERMS):
        part = terms[start : start + MOST_TERMS]
        a = torch.stack([term.a.expand(-1, channels) for term in part])
        tensors = [tensor for term in part for tensor in _Inputs.of(term)]
        call = _Call(run, block, places, [_Options.of(term) for term in part])
        low = _AddTerms.apply(call, low, a, *tensors)
        if start + MOST_TERMS < len(terms):
            places = every_row(low.shape[1], low.device)
    return low


class _Options(NamedTuple):
    evaluations: Evaluations
    activated: bool
    again: Callable[[], Tensor] | None

    @classmethod
    def of(cls, term: GatedTerm) -> _Options:
        again = None if term.rotated is None else term.rotated.again
        return cls(term.evaluations, term.network.output_activation, again)

    @property
    def factors(self) -> list[int]:
        return [factor for evaluation in self.evaluations for factor in evaluation]


class _Inputs(NamedTuple):
    rotated: Tensor | None
    of_source: Tensor | None
    of_target: Tensor | None
    c: Tensor
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor

    @classmethod
    def of(cls, term: GatedTerm) -> _Inputs:
        network, rotated = term.network, None
        if term.rotated is not None and any(r for r, _ in term.evaluations):
            rotated = term.rotated.value
        weights = (network.first.weight, network.first.bias, network.second.weight, network.second.bias)
        return cls(rotated, *term.projected, term.c, *weights)


class _Call(NamedTuple):
    run: Pass
    block: EdgeBlock
    places: Places
    options: list[_Options]

    def of_terms(self, tensors: Sequence[Any]) -> list[_Inputs]:
        size = len(_Inputs._fields)
        return [_Inputs(*tensors[start : start + size]) for start in range(0, len(tensors), size)]


class _AddTerms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, low: Tensor, a: Tensor, *tensors: Any) -> Tensor:
        channels, products, results = low.shape[2], [], []
        for options, inputs in zip(call.options, call.of_terms(tensors)):
            product = None
            if inputs.rotated is not None:
                product = call.run.packed(inputs.first).product(inputs.rotated.flatten(1))
            values = hidden(*_hidden_arguments(call, options, inputs, product))
            results.append(_result(call, options, inputs, values, channels))
            products.append(product)
        ctx.call = call
        kept = [
            tensor
            for options, inputs in zip(call.options, call.of_terms(tensors))
            for tensor in inputs._replace(rotated=inputs.rotated if options.again is None else None)
        ]
        ctx.save_for_backward(a, *products, *kept)
        activated = call.options[0].activated
        return combine(low, call.places.low_of_row, call.places.of_low, results, a, activated)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        a, *kept = ctx.saved_tensors
        count = len(call.options)
        of_a = torch.empty_like(a)
        found: list[Tensor | None] = []
        terms = zip(call.options, call.of_terms(kept[count:]), call.of_terms(ctx.needs_input_grad[3:]))
        for k, (options, inputs, wanted) in enumerate(terms):
            of_a[k], gradients = _backward(call, options, inputs, wanted, kept[k], a[k], gradient)
            found += gradients
        return None, gradient.index_select(1, call.places.of_low), of_a, *found


def _hidden_arguments(call: _Call, options: _Options, inputs: _Inputs, product: Tensor | None) -> tuple[Any, ...]:
    block = call.block
    return (
        product, inputs.of_source, inputs.of_target, block.source, block.target, *block.by_source,
        block.target_offsets, inputs.first_bias, inputs.c, options.factors, call.run.compute.dtype,
    )  # fmt: skip


def _second_layer_inputs(options: _Options, values: Tensor) -> Tensor:
    """Hidden layers, or their sum where NN ends without activation: ``[evaluations edges, hidden]``."""
    if options.activated or len(values) == 1:
        return values.flatten(0, 1)
    return values.sum(0)


def _result(
    call: _Call, options: _Options, inputs: _Inputs, values: Float[Tensor, "evaluations edges hidden"], channels: int
) -> Float[Tensor, "_evaluations edges rows channels"]:
    """The second layer before its activation."""
    layer, edges = _second_layer_inputs(options, values), values.shape[1]
    times = 1 if options.activated else len(values)
    bias = inputs.second_bias.to(layer.dtype)
    bias = times * bias if times > 1 else bias
    result = call.run.packed(inputs.second).product(layer, bias)
    return result.view(len(values) // times, edges, inputs.second.shape[0] // channels, channels)


def _backward(
    call: _Call,
    options: _Options,
    inputs: _Inputs,
    wanted: _Inputs,
    product: Tensor | None,
    a: Tensor,
    gradient: Tensor,
) -> tuple[Tensor, list[Tensor | None]]:
    """Gradients of a term's attention, and of its inputs in their order; of weights, those that are wanted."""
    run, channels = call.run, gradient.shape[2]
    arguments = _hidden_arguments(call, options, inputs, product)
    values = hidden(*arguments)
    layer, result = _second_layer_inputs(options, values), _result(call, options, inputs, values, channels)
    of_result, of_a, of_bias = combine_backward(gradient, result, a, options.activated)
    upstream = of_result.flatten(0, 1).flatten(1)
    times = 1 if options.activated else len(values)
    of_second = _weight_gradient(run, upstream, layer) if wanted.second else None
    of_second_bias = (times * of_bias if times > 1 else of_bias) if wanted.second_bias else None
    of_hidden = run.packed(inputs.second, transposed=True).product(upstream)
    of_hidden = of_hidden.view(len(result), *values.shape[1:]).expand_as(values)
    of_inputs = gradients_of_hidden(of_hidden, arguments)
    of_rotated = of_first = None
    if of_inputs.rotated is not None:
        rotated = inputs.rotated if options.again is None else options.again()
        assert rotated is not None
        if wanted.first:
            of_first = _weight_gradient(run, of_inputs.rotated, rotated.flatten(1))
        of_rotated = run.packed(inputs.first, transposed=True).product(of_inputs.rotated).view_as(rotated)
    return of_a, [
        of_rotated, of_inputs.of_source, of_inputs.of_target, of_inputs.c, of_first, of_inputs.bias, of_second,
        of_second_bias,
    ]  # fmt: skip


def _weight_gradient(run: Pass, upstream: Tensor, inputs: Tensor) -> Tensor:
    with run.compute.products():
        return (upstream.T @ inputs).to(torch.float32)
