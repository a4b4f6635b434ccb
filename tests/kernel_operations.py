"""Each operation that the Triton kernels have, against the plain equations in float64, in value and gradient."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import torch
from kernel_inputs import DEVICE, both, doubles, edges, random, same
from torch import Tensor, nn
from torch.nn.functional import silu
from torch.testing import assert_close

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import EdgeBlock, Edges, rows_up_to
from fairchem_hdgnn.models.hdgnn.norm import DegreeLayerNorm
from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps, OuterProduct
from fairchem_hdgnn.models.ops.gated_network import (
    DIFFERENCE,
    PLAIN,
    ROTATED,
    Evaluations,
    GatedMlp,
    GatedTerm,
    Places,
    Rotated,
)
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.so2 import InnerWeights, num_terms, rows_by_order, terms_of_order
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork, on_sphere
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps, on_sphere_fused
from fairchem_hdgnn.models.so3.layout import num_coefficients


def check_rotations() -> None:
    """All degrees; orders of one message and more; no edge, one, and several; channels in one block and in two."""
    cases = [(lmax, min(lmax, 1 + lmax % 3), 4, 2, 2) for lmax in range(1, 9)]
    cases += [(2, 2, 3, 2, 0), (2, 1, 3, 2, 1), (2, 1, 70, 3, 5)]
    for case, (lmax, mmax, channels, nodes, count) in enumerate(cases):
        of = edges(nodes, count, lmax, lmax)
        rows = (rows_up_to, rows_by_order)[case % 2](lmax, mmax)
        x = random(nodes, num_coefficients(lmax), channels), random(nodes, num_coefficients(lmax), channels)
        exact = doubles(*x)
        for dtype, tolerance in [(torch.float32, 2e-6)] + [(torch.bfloat16, 1e-2)] * (lmax < 4):
            fused, plain = both(of, dtype)
            got = [value for value, _ in fused.gather_rotate_pair(*x, lmax, rows)]
            assert {value.dtype for value in got} == {dtype}
            same(got, [v for v, _ in plain.gather_rotate_pair(*exact, lmax, rows)], x, exact, tolerance)
        for atom in Atom:
            got, wanted = (ops.gather_rotate(v, atom, lmax, rows) for ops, v in ((fused, x[0]), (plain, exact[0])))
            same(got, wanted, x[:1], exact[:1], 2e-6)
        y, u, a = random(count, len(rows), channels), random(count, num_coefficients(lmax)), random(count, channels)
        exact = doubles(y, u, a)
        got = fused.rotate_scatter(y, lmax, rows, OuterProduct(u, a))
        same(got, plain.rotate_scatter(exact[0], lmax, rows, OuterProduct(*exact[1:])), (y, u, a), exact, 2e-6)
        same(fused.rotate_scatter(y, lmax, rows), plain.rotate_scatter(exact[0], lmax, rows), (y,), exact[:1], 2e-6)
    of = edges(5, 12, 2, 2)
    part = of.blocks(None)[0].cut(2)[1]
    assert 0 < part.first_node < part.last_node
    exact_part = EdgeBlock(part.source, part.target, part.wigner.double(), part.first_node, part.last_node, 5)
    run = Pass(Compute(torch.float32, tf32=False))
    rows = rows_up_to(2, 1)
    x = random(5, 9, 4)
    (exact,) = doubles(x)
    for ops, value in ((TritonEdgeOps(part, run), x), (EdgeOps(exact_part, run), exact)):
        rotated = ops.gather_rotate(value, Atom.SOURCE, 2, rows) + ops.gather_rotate(value, Atom.TARGET, 2, rows)
        part_sum = ops.rotate_scatter(rotated, 2, rows)
        assert part_sum.shape[0] == part.num_nodes
        value.grad = None
        part_sum.square().sum().backward()
    assert_close(x.grad.double(), exact.grad, rtol=1e-5, atol=1e-5)


def gated_terms(
    of: Edges,
    evaluations: Evaluations,
    activated: bool,
    dtype: torch.dtype,
    *,
    shared: bool = True,
    channels: int = 5,
    hidden: int = 9,
) -> list[GatedTerm]:
    """Three terms, of sources, targets and both; rows of L = 2 with |m| <= 1.

    The first two may share network and c.
    """
    terms: list[GatedTerm] = []
    attention = random(of.num_edges, 3, channels)
    for atoms in ((True, False), (False, True), (True, True)):
        network, c = GatedMlp(7 * channels, hidden, 7 * channels, activated).to(DEVICE), random(of.num_edges, hidden)
        if shared and len(terms) == 1:
            network, c = terms[0].network, terms[0].c
        rotated = Rotated(random(of.num_edges, 7, channels).detach().to(dtype).requires_grad_())
        sees_x = any(p for _, p in evaluations)
        source, target = (random(of.num_nodes, hidden) if there and sees_x else None for there in atoms)
        sees_rotated = any(r for r, _ in evaluations)
        a = attention[:, len(terms)]
        terms.append(GatedTerm(network, evaluations, rotated if sees_rotated else None, (source, target), c, a))
    return terms


def check_terms() -> None:
    """All evaluations that messages use, with and without a SiLU at the end, in both dtypes."""
    low_rows, rows = rows_up_to(2, 2), rows_up_to(2, 1)
    every = (*rows, *(row for row in low_rows if row not in rows))
    places = Places(*(tensor.to(DEVICE) for tensor in Places.among(low_rows, every)))
    cases = itertools.product(((DIFFERENCE, PLAIN), (ROTATED,), (PLAIN,)), (True, False), (True, False))
    for case, (evaluations, activated, shared) in enumerate(cases):
        # The first has more edges, channels and hidden channels than one program.
        sizes = {"channels": 130, "hidden": 140} if case == 0 else {"channels": 5, "hidden": 9}
        edge_counts = (130, 3) if case == 0 else (2, 1)
        for count, dtype, tolerance in zip(edge_counts, (torch.float32, torch.bfloat16), (5e-6, 3e-2)):
            of = edges(4, count, 2, 2)
            fused, plain = both(of, dtype)
            terms = gated_terms(of, evaluations, activated, dtype, shared=shared, **sizes)
            low = random(count, 9, sizes["channels"])
            got, inputs = of_terms(fused, places, low, terms)
            wanted, exact = of_terms(plain, places, low.double(), exact_terms(terms))
            same(got, wanted, inputs, exact, tolerance)
    empty = gated_terms(edges(4, 0, 2, 2), (DIFFERENCE, PLAIN), True, torch.float32)
    got, inputs = of_terms(both(edges(4, 0, 2, 2))[0], places, random(0, 9, 5), empty)
    assert got.shape == (0, 9, 5)
    assert not any(gradient.any() for gradient in torch.autograd.grad(got.sum(), inputs))


def check_gate_features() -> None:
    """c of two layers: what the hidden layers' kernel takes, and then multiplies by after its SiLU."""
    layers = [nn.Linear(6, width).to(DEVICE) for width in (5, 9)]
    exact_layers = [copy.deepcopy(layer).double() for layer in layers]
    parameters, exact_parameters = ([p for layer in of for p in layer.parameters()] for of in (layers, exact_layers))
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 3e-2)):
        fused, plain = both(edges(3, 4, 1, 1), dtype)
        features = random(4, 6)
        (exact,) = doubles(features)
        got = fused.gate_features(features, layers)
        assert {value.dtype for value in got} == {dtype}
        wanted = plain.gate_features(exact, exact_layers)
        same([silu(value) for value in got], wanted, (features, *parameters), (exact, *exact_parameters), tolerance)


def exact_terms(terms: list[GatedTerm]) -> list[GatedTerm]:
    """The same in float64; what terms share, they share."""
    found: dict[int, Any] = {}

    def once(of: Any, make: Callable[[Any], Any]) -> Any:
        return found.setdefault(id(of), make(of))

    return [
        GatedTerm(
            once(network, lambda module: copy.deepcopy(module).double()),
            evaluations,
            None if rotated is None else Rotated(*doubles(rotated.value)),
            tuple(None if tensor is None else doubles(tensor)[0] for tensor in projected),  # type: ignore[arg-type]
            once(c, lambda tensor: doubles(tensor)[0]),
            doubles(a)[0],
        )
        for network, evaluations, rotated, projected, c, a in terms
    ]


def of_terms(ops: EdgeOps, places: Places, low: Tensor, terms: list[GatedTerm]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The sum, and all that it depends on; c is before its SiLU, which kernels apply."""
    low = low.detach().requires_grad_()
    leaves = [low]
    for net, _, rotated, projected, c, a in terms:
        leaves += [c, a, net.first.bias, *net.second.parameters()]
        leaves += [tensor for tensor in projected if tensor is not None]
        if rotated is not None:
            leaves += [rotated.value, net.first.weight]
    if not isinstance(ops, TritonEdgeOps):
        terms = [term._replace(c=silu(term.c)) for term in terms]
    return ops.add_terms(low, places, terms), tuple(leaves)


def check_gate() -> None:
    """With weights and without, from L' = 0 to 6."""
    for lmax, channels, count in ((0, 3, 4), (1, 130, 2), (3, 5, 4), (6, 1, 4), (2, 3, 0), (2, 3, 5)):
        fused, plain = both(edges(3, count, 2, 2))
        planes = num_coefficients(lmax) + lmax
        tensors = random(count, 6), random(6, planes * channels), random((lmax + 1) * channels), random(count, channels)
        exact = doubles(*tensors)
        for end in (3, 4):
            got, wanted = (
                ops.gated_product(*values[:3], channels, values[3] if end == 4 else None)
                for ops, values in ((fused, tensors), (plain, exact))
            )
            same(got, wanted, tensors[:end], exact[:end], 5e-6)
    # One trained input at a time, from an upstream gradient that is the same for all rows.
    for trained in range(4):
        of_fused, of_plain = (
            [values if i == trained else values.detach() for i, values in enumerate(of)] for of in (tensors, exact)
        )
        got, wanted = (
            fused.gated_product(*of_fused[:3], 3, of_fused[3]),
            plain.gated_product(*of_plain[:3], 3, of_plain[3]),
        )
        same(got.sum(1), wanted.sum(1), (of_fused[trained],), (of_plain[trained],), 5e-6)


def check_single_channels() -> None:
    """All degrees, into the frames and back; D may have more degrees and orders than are asked for."""
    for lmax, mmax, count in ((0, 0, 3), (1, 1, 20), (2, 1, 9), (4, 2, 2), (6, 6, 3), (8, 8, 2), (2, 2, 0)):
        rows = rows_up_to(lmax, mmax)
        fused, plain = both(edges(3, count, lmax + 1, lmax + 1))
        x, y = random(count, num_coefficients(lmax)), random(count, len(rows))
        (exact,) = doubles(x)
        same(fused.rotate_channel(x, rows), plain.rotate_channel(exact, rows), (x,), (exact,), 2e-6)
        (exact,) = doubles(y)
        got, wanted = fused.rotate_channel_back(y, lmax, rows), plain.rotate_channel_back(exact, lmax, rows)
        same(got, wanted, (y,), (exact,), 2e-6)


def check_norm() -> None:
    """Centred and not; one channel, several, and more than a power of two; no atom."""
    cases = ((0, 5, 2, True), (2, 1, 3, False), (3, 130, 2, True), (6, 6, 1, False), (1, 2, 0, True))
    for lmax, channels, nodes, centred in cases:
        norm = DegreeLayerNorm(lmax, channels, centred).to(DEVICE)
        for parameter in norm.parameters():
            nn.init.normal_(parameter)
        x = random(nodes, num_coefficients(lmax), channels)
        plain = copy.deepcopy(norm).double()
        (exact,) = doubles(x)
        same(norm(x, fused=True), plain(exact), (x, *norm.parameters()), (exact, *plain.parameters()), 5e-6)


def check_gather() -> None:
    """Atoms with several edges, and with none."""
    for atom in Atom:
        fused, plain = both(edges(4, 9, 1, 1))
        x = random(4, 3, 2)
        (exact,) = doubles(x)
        same(fused.gather(x, atom), plain.gather(exact, atom), (x,), (exact,), 2e-6)


def check_so2() -> None:
    """The convolution of eSCN, from atoms to rows; several orders, l = 0 alone, no edge."""
    cases = ((3, 2, 5, 3, 7), (2, 1, 3, 300, 2), (0, 0, 4, 3, 5), (2, 2, 3, 2, 0))
    for lmax, mmax, channels, hidden_channels, count in cases:
        of = edges(4, count, 4, 2)
        widths = [num_terms(min(l, mmax)) * hidden_channels for l in range(lmax + 1)]
        inner = [[random(channels, width) for width in widths] for _ in Atom]
        x, features = random(4, num_coefficients(lmax), channels), random(count, 6)
        scale, scale_bias = random(widths[-1] * 2, 6), random(widths[-1] * 2)
        orders = [len(terms_of_order(m)) * 2 * hidden_channels for m in range(mmax + 1)]
        outer = [random(width, (lmax + 1 - m) * channels) for m, width in enumerate(orders)]
        inputs = (x, features, scale, scale_bias, *outer, *inner[0], *inner[1])
        for dtype, tolerance in ((torch.float32, 5e-6), (torch.bfloat16, 5e-2)):
            exact = doubles(*inputs)
            fused, plain = both(of, dtype)
            got, wanted = (
                convolved(ops, values, lmax, mmax, hidden_channels) for ops, values in ((fused, inputs), (plain, exact))
            )
            assert got.dtype == dtype
            same(got, wanted, inputs, exact, tolerance)


def convolved(ops: EdgeOps, values: tuple[Tensor, ...], lmax: int, mmax: int, hidden_channels: int) -> Tensor:
    x, features, scale, scale_bias, *weights = values
    outer, inner = weights[: mmax + 1], weights[mmax + 1 :]
    mixed = []
    for atom, of_degrees in zip(Atom, (inner[: lmax + 1], inner[lmax + 1 :])):
        mixed.append(ops.gather_mix_rotate(x, atom, InnerWeights(tuple(of_degrees), hidden_channels, mmax)))
    gated = ops.gate_orders(*mixed, features, scale, scale_bias)
    return ops.join_orders(gated, outer, x.shape[2], x.dtype)


def check_sphere() -> None:
    """With a layer in the middle and without, with biases and without; points, rows and channels in several blocks."""
    for n, points, rows, rows_out, channels in (
        (3, 20, 5, 6, 3),
        (2, 17, 33, 4, 70),
        (1, 6, 4, 4, 18),
        (0, 6, 4, 4, 2),
    ):
        grids = random(points, rows, grad=False), random(rows_out, points, grad=False)
        x, first, weight, second = (
            random(n, rows, channels),
            random(channels),
            random(channels, channels),
            random(channels),
        )
        for given in ((), (first,), (None, weight), (first, weight, second)):
            inputs = tuple(tensor for tensor in (x, *given) if tensor is not None)
            exact = doubles(*inputs)
            rest = iter(exact[1:])
            exact_network = [None if tensor is None else next(rest) for tensor in given]
            plain = PointwiseNetwork(*(grid.double() for grid in grids), *exact_network)
            for dtype, tolerance in ((torch.float32, 5e-6), (torch.bfloat16, 3e-2)):
                wanted = on_sphere(exact[0], plain, Compute(torch.float64, tf32=False))
                got = on_sphere_fused(x, PointwiseNetwork(*grids, *given), Compute(dtype, tf32=False))
                assert got.dtype == torch.float32
                same(got, wanted, inputs, exact, tolerance)
