"""The gated network of eq. 10 on a block of edges, weighed by attention.

``NN(u) = W_2 (SiLU(W_1 u + b_1) * c) + b_2``, optionally with a SiLU after it. Its first layer is linear, so what it
makes of ``x'' = D x - x`` and of x follows from two products: ``W_1 D x`` for each edge, and ``W_1 x`` for each atom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.edges import Rows
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.silu import silu_backward
from fairchem_hdgnn.models.so3.constants import cached_constants

Evaluations = tuple[tuple[int, int], ...]
"""The network's inputs, one per evaluation: factors of D x and of x."""

DIFFERENCE, PLAIN, ROTATED, NOTHING = (1, -1), (0, 1), (1, 0), (0, 0)
"""x'' = D x - x, x, D x, and 0."""


class Rotated(NamedTuple):
    """D x of an atom of each edge, or of both atoms together.

    Attributes:
        value: the rows of the network's input.
        again: recomputes it in a backward pass, so that it need not be stored.
    """

    value: Float[Tensor, "edges rows channels"]
    again: Callable[[], Tensor] | None = None


class GatedMlp(nn.Module):
    """Parameters of NN (eq. 10).

    Args:
        inputs: size of u, flattened rows x channels.
        hidden: hidden width.
        outputs: size of the result.
        output_activation: whether a SiLU follows.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, output_activation: bool) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)
        self.output_activation = output_activation

    def forward(
        self, u: Float[Tensor, "edges inputs"], c: Float[Tensor, "edges hidden"]
    ) -> Float[Tensor, "edges outputs"]:
        """NN(u) with invariant features c_ij."""
        result = self.second(silu(self.first(u)) * c)
        return silu(result) if self.output_activation else result


class GatedTerm(NamedTuple):
    """``a * sum NN(r D x + p x)`` over factors (r, p).

    Attributes:
        network: NN.
        evaluations: the factors.
        rotated: D x, the rows of the network's input; not needed if all r are 0.
        projected: ``W_1 x`` of the batch's atoms, as sources and as targets of edges, which are added if both are
            given; neither is needed if all p are 0.
        c: invariant features, from :meth:`~fairchem_hdgnn.models.ops.edge_ops.EdgeOps.gate_features` of the same
            operations: c_ij, or with kernels its value before SiLU.
        a: attention coefficients, one for each channel or for all.
    """

    network: GatedMlp
    evaluations: Evaluations
    rotated: Rotated | None
    projected: tuple[Tensor | None, Tensor | None]
    c: Float[Tensor, "edges hidden"]
    a: Float[Tensor, "edges _channels"]


class Places(NamedTuple):
    """Where the rows of the equivariant term are among all rows of a message.

    Attributes:
        of_low: the position of each of its rows.
        low_of_row: for each row of the message, the row of the term, or -1.
    """

    of_low: Int[Tensor, "low_rows"]
    low_of_row: Int[Tensor, "rows"]

    @classmethod
    def among(cls, low_rows: Rows, rows: Rows) -> Places:
        """From both lists of rows (l, m)."""
        low_of_row = [low_rows.index(row) if row in low_rows else -1 for row in rows]
        return cls(torch.tensor([rows.index(row) for row in low_rows]), torch.tensor(low_of_row, dtype=torch.int32))


@cached_constants
def every_row(count: int, device: torch.device) -> Places:
    """All rows, in their order."""
    return Places(torch.arange(count, device=device), torch.arange(count, device=device, dtype=torch.int32))


def add_gated_network(
    out: Float[Tensor, "edges rows channels"], term: GatedTerm, projected: Float[Tensor, "edges hidden"] | None
) -> Float[Tensor, "edges rows channels"]:
    """``out`` plus a term, which belongs to its first rows; both in the edge frame. ``projected`` is that of edges."""
    network, evaluations, rotated, _, c, a = term
    of_rotated = None if rotated is None else linear(rotated.value.flatten(1), network.first.weight)
    total = out.new_zeros(())
    for r, p in evaluations:
        before = network.first.bias.expand(len(out), -1)
        if r and of_rotated is not None:
            before = before + r * of_rotated
        if p and projected is not None:
            before = before + p * projected
        result = linear(silu(before) * c, network.second.weight, network.second.bias)
        total = total + (silu(result) if network.output_activation else result)
    weighed = total.unflatten(-1, (-1, out.shape[2])) * a.unsqueeze(1)
    rows = weighed.shape[1]
    return torch.cat([out[:, :rows] + weighed, out[:, rows:]], dim=1)


def add_gated_network_fast(run: Pass, out: Tensor, term: GatedTerm, projected: Tensor | None) -> Tensor:
    """As :func:`add_gated_network`, in place; the weights' gradients go to ``run``.

    Where NN ends without activation, its second layer is applied once, to the sum of the hidden layers.
    """
    network, evaluations, rotated, _, c, a = term
    weights = _Weights(network.first.weight, network.first.bias, network.second.weight, network.second.bias)
    if not any(factor for factor, _ in evaluations):
        rotated = None
    value, again = rotated or (None, None)
    call = _Call(run, evaluations, network.output_activation, torch.is_grad_enabled(), again)
    return _AddGatedNetwork.apply(call, out, value, projected, c, a, *weights)


class _Weights(NamedTuple):
    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor


class _Call(NamedTuple):
    run: Pass
    evaluations: Evaluations
    activated: bool
    keep: bool
    again: Callable[[], Tensor] | None


class _AddGatedNetwork(torch.autograd.Function):
    """Keeps the results of both layers before their activations."""

    @staticmethod
    def forward(
        ctx: Any, call: _Call, out: Tensor, rotated: Tensor | None, projected: Tensor | None, c: Tensor, a: Tensor,
        *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        parameters = _Weights(*weights)
        run, dtype = call.run, call.run.compute.dtype
        inputs = None if rotated is None else rotated.flatten(1).to(dtype)
        before = [_before(call, factors, inputs, projected, parameters, len(out)) for factors in call.evaluations]
        bias, results = parameters.second_bias.to(dtype), []
        for values in _grouped(call, [silu(values).mul_(c) for values in before]):
            # The backward pass needs the result before its activation.
            times = 1 if call.activated else len(before)
            activate = call.activated and not call.keep
            result = run.packed(parameters.second).product(values.to(dtype), times * bias, activated=activate)
            value = silu(result) if call.activated and call.keep else result
            value = value.unflatten(-1, (-1, out.shape[2]))
            out[:, : value.shape[1]].addcmul_(value, a.unsqueeze(1))
            if call.keep:
                results.append(result)
        ctx.call, ctx.shape = call, (None if rotated is None else rotated.shape)
        ctx.count = len(before)
        # What is saved comes back as other tensors under hooks, and the pass would not know the weights any more.
        ctx.weights = parameters
        ctx.save_for_backward(inputs if call.again is None else None, c, a, *before, *results)
        ctx.mark_dirty(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        call: _Call = ctx.call
        inputs, c, a, *rest = ctx.saved_tensors
        if call.again is not None:
            inputs = call.again().flatten(1).to(call.run.compute.dtype)
        weights, before, results = ctx.weights, rest[: ctx.count], rest[ctx.count :]
        activated = [silu(values) for values in before]
        hidden = _grouped(call, [values * c for values in activated])
        of_a = torch.zeros_like(a)
        of_hidden = [
            _backward_second(call, weights, gradient, a, of_a, result, values)
            for result, values in zip(results, hidden)
        ]
        of_c, of_projected, of_rotated = torch.zeros_like(c), None, None
        for k, factors in enumerate(call.evaluations):
            of_values = of_hidden[k if call.activated else 0]
            of_c.addcmul_(of_values, activated[k])
            of_before = silu_backward(of_values * c, before[k])
            _add_bias(call, weights.first_bias, of_before)
            r, p = factors
            if p:
                of_projected = p * of_before if of_projected is None else of_projected.add_(of_before, alpha=p)
            if r:
                of_rotated = _backward_first(call, weights, of_before, inputs).view(ctx.shape)
        of_weights = (call.run.returned(weight) for weight in weights)
        return None, gradient, of_rotated, of_projected, of_c, of_a, *of_weights


def _before(
    call: _Call,
    factors: tuple[int, int],
    inputs: Tensor | None,
    projected: Tensor | None,
    weights: _Weights,
    edges: int,
) -> Float[Tensor, "edges hidden"]:
    """The first layer before its activation."""
    r, p = factors
    value = weights.first_bias.expand(edges, -1)
    if p and projected is not None:
        value = torch.add(value, projected, alpha=p)
    if r and inputs is not None:
        value = call.run.packed(weights.first).added_product(inputs, value)
    return value


def _grouped(call: _Call, hidden: list[Tensor]) -> list[Tensor]:
    """Input of the second layer: each hidden layer, or their sum."""
    if call.activated or len(hidden) == 1:
        return hidden
    return [sum(hidden[1:], hidden[0])]


def _backward_second(
    call: _Call, weights: _Weights, gradient: Tensor, a: Tensor, of_a: Tensor, result: Tensor, hidden: Tensor
) -> Float[Tensor, "edges hidden"]:
    """Gradient of a hidden layer, or of their sum; adds those of ``a`` and of the second layer's weights."""
    run = call.run
    values = silu(result) if call.activated else result
    values = values.unflatten(-1, (-1, gradient.shape[2]))
    upstream = gradient[:, : values.shape[1]]
    of_a += (upstream * values).sum(1).sum_to_size(a.shape)
    of_result = torch.empty_like(values)
    torch.mul(upstream, a.unsqueeze(1), out=of_result)
    flat = of_result.flatten(1)
    if call.activated:
        silu_backward(flat, result, out=flat)
    if weights.second.requires_grad:
        run.compute.add_product(run.gradient(weights.second), flat.T, hidden.to(flat.dtype))
    _add_bias(call, weights.second_bias, flat, times=1 if call.activated else len(call.evaluations))
    return run.packed(weights.second, transposed=True).product(flat).to(hidden.dtype)


def _backward_first(call: _Call, weights: _Weights, of_before: Tensor, inputs: Tensor) -> Float[Tensor, "edges inputs"]:
    """Gradient of D x, flattened; adds that of the first layer's matrix."""
    run, upstream = call.run, of_before.to(inputs.dtype)
    if weights.first.requires_grad:
        run.compute.add_product(run.gradient(weights.first), upstream.T, inputs)
    return run.packed(weights.first, transposed=True).product(upstream).to(of_before.dtype)


def _add_bias(call: _Call, bias: Tensor, upstream: Tensor, times: int = 1) -> None:
    if bias.requires_grad:
        call.run.gradient(bias).add_(upstream.sum(0), alpha=times)
