"""Checks of the Triton kernels, for a process of its own: on a GPU where there is one, else in Triton's interpreter.

Each is compared with the plain equations in float64, in value and gradient; memory that a kernel does not write is not
a number.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from emulated_tf32 import take_the_branches_of_a_gpu
from small_networks import Clusters, clusters, network
from test_launches import escn, further_layer, hdgnn
from torch import Tensor, nn
from torch.testing import assert_close

from fairchem_hdgnn.host.counting import WorkCounter
from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import EdgeBlock, Edges, rows_up_to
from fairchem_hdgnn.models.hdgnn.norm import DegreeLayerNorm
from fairchem_hdgnn.models.kernels import (
    combine,
    degree_norm,
    gate,
    gate_orders,
    gather,
    hidden,
    launching,
    rotate_channel,
    rotations,
    sphere,
)
from fairchem_hdgnn.models.ops.edge_ops import Atom, EdgeOps, OuterProduct
from fairchem_hdgnn.models.ops.gate import SIGMOID_SCALE, SILU_SCALE
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
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps, on_sphere_fused, row_places
from fairchem_hdgnn.models.so3.layout import num_coefficients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape, device=DEVICE).requires_grad_(grad)


def edges(nodes: int, count: int, lmax: int, mmax: int) -> Edges:
    """Random edges; the last atom has none."""
    frames, _ = torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64))
    frames = frames * torch.linalg.det(frames)[:, None, None].sign()
    target = torch.randint(max(1, nodes - 1), (count,)).sort().values
    made = Edges.from_frames(torch.randint(nodes, (count,)), target, frames, nodes, lmax, mmax)
    return Edges(made.source.to(DEVICE), made.target.to(DEVICE), made.wigner.float().to(DEVICE), nodes)


def both(of: Edges, dtype: torch.dtype = torch.float32) -> tuple[TritonEdgeOps, EdgeOps]:
    """Kernels, and the plain equations in float64, on the same edges."""
    exact = Edges(of.source, of.target, of.wigner.double(), of.num_nodes)
    run, exact_run = (Pass(Compute(kind, tf32=False)) for kind in (dtype, torch.float64))
    return TritonEdgeOps(of.blocks(None)[0], run), EdgeOps(exact.blocks(None)[0], exact_run)


def same(got: Any, wanted: Any, inputs: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    """Values, and the gradients of a random sum of them."""
    got, wanted = ([values] if isinstance(values, Tensor) else list(values) for values in (got, wanted))
    upstream = [torch.randn_like(value) for value in wanted]
    of_got = torch.autograd.grad(got, inputs, [g.to(v.dtype) for g, v in zip(upstream, got)])
    of_wanted = torch.autograd.grad(wanted, exact, upstream)
    for a, b in zip([*got, *of_got], [*wanted, *of_wanted]):
        assert a.shape == b.shape
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        assert_close(a.double() / scale, b / scale, rtol=tolerance, atol=tolerance)


def doubles(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().double().requires_grad_() for tensor in tensors)


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


def gated_terms(of: Edges, evaluations: Evaluations, activated: bool, dtype: torch.dtype) -> list[GatedTerm]:
    """Three terms, of sources, targets and both; rows of L = 2 with |m| <= 1, five channels."""
    terms = []
    for atoms in ((True, False), (False, True), (True, True)):
        network = GatedMlp(7 * 5, 9, 7 * 5, activated).to(DEVICE)
        rotated = Rotated(random(of.num_edges, 7, 5).detach().to(dtype).requires_grad_())
        sees_x = any(p for _, p in evaluations)
        source, target = (random(of.num_nodes, 9) if there and sees_x else None for there in atoms)
        c, a = random(of.num_edges, 9), random(of.num_edges, 5)
        sees_rotated = any(r for r, _ in evaluations)
        terms.append(GatedTerm(network, evaluations, rotated if sees_rotated else None, (source, target), c, a))
    return terms


def check_terms() -> None:
    """All evaluations that messages use, with and without a SiLU at the end, in both dtypes."""
    low_rows, rows = rows_up_to(2, 2), rows_up_to(2, 1)
    every = (*rows, *(row for row in low_rows if row not in rows))
    places = Places(*(tensor.to(DEVICE) for tensor in Places.among(low_rows, every)))
    cases = itertools.product(((DIFFERENCE, PLAIN), (ROTATED,), (PLAIN,)), (True, False))
    for case, (evaluations, activated) in enumerate(cases):
        # One program of the backward pass has up to 32 edges.
        for count, dtype, tolerance in ((35 if case == 0 else 2, torch.float32, 5e-6), (1, torch.bfloat16, 3e-2)):
            of = edges(4, count, 2, 2)
            fused, plain = both(of, dtype)
            terms, low = gated_terms(of, evaluations, activated, dtype), random(count, 9, 5)
            got, inputs = of_terms(fused, places, low, terms)
            wanted, exact = of_terms(plain, places, low.double(), [exact_term(term) for term in terms])
            same(got, wanted, inputs, exact, tolerance)
    empty = gated_terms(edges(4, 0, 2, 2), (DIFFERENCE, PLAIN), True, torch.float32)
    got, inputs = of_terms(both(edges(4, 0, 2, 2))[0], places, random(0, 9, 5), empty)
    assert got.shape == (0, 9, 5)
    assert not any(gradient.any() for gradient in torch.autograd.grad(got.sum(), inputs))


def exact_term(term: GatedTerm) -> GatedTerm:
    """The same in float64."""
    module = copy.deepcopy(term.network).double()
    value = None if term.rotated is None else Rotated(*doubles(term.rotated.value))
    nodes = tuple(None if tensor is None else doubles(tensor)[0] for tensor in term.projected)
    return GatedTerm(module, term.evaluations, value, nodes, *doubles(term.c, term.a))  # type: ignore[arg-type]


def of_terms(ops: EdgeOps, places: Places, low: Tensor, terms: list[GatedTerm]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The sum, and all that it depends on."""
    low = low.detach().requires_grad_()
    leaves = [low]
    for net, _, rotated, projected, c, a in terms:
        leaves += [c, a, net.first.bias, *net.second.parameters()]
        leaves += [tensor for tensor in projected if tensor is not None]
        if rotated is not None:
            leaves += [rotated.value, net.first.weight]
    return ops.add_terms(low, places, terms), tuple(leaves)


def check_gate() -> None:
    """With weights and without, from L' = 0 to 6."""
    for lmax, channels, count in ((0, 3, 4), (1, 130, 2), (3, 5, 4), (6, 1, 4), (2, 3, 0)):
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


def check_counted() -> None:
    """Products inside a kernel are counted; the backward pass forms the first ones again."""
    x, to_grid, from_grid = random(3, 4, 5), random(6, 4, grad=False), random(2, 6, grad=False)
    with WorkCounter() as forward:
        values = on_sphere_fused(x, PointwiseNetwork(to_grid, from_grid), Compute(torch.float32, tf32=False))
    with WorkCounter() as backward:
        values.sum().backward()
    # torch 2.4 registers formulas under names that its own counter does not look up.
    if not torch.__version__.startswith("2.4."):
        assert (forward.flops, backward.flops) == (2 * 3 * 5 * (24 + 12), 2 * 3 * 5 * (24 + 12 + 24))


def check_registered() -> None:
    """opcheck: schemas, fake tensors, and gradients that are registered; also for inputs with other strides."""
    of = edges(4, 7, 2, 2)
    block, rows = of.blocks(None)[0], rows_up_to(2, 1)
    place, index = row_places(2, rows, block.source.device), (block.source, block.target)
    by_source, offsets, wigner = block.by_source, block.target_offsets, block.wigner
    x, y, u, a = random(4, 9, 3), random(7, 7, 3), random(7, 9), random(3, 7).T
    check: Any = torch.library.opcheck
    check(rotations.gather_rotate, (x, index[0], *by_source, wigner, place, 7, torch.float32))
    check(rotations.gather_rotate_pair, (x, x, *index, *by_source, offsets, wigner, place, 7, torch.float32))
    check(rotations.rotate_sum, (y, None, u, a, index[1], None, offsets, wigner, place))
    check(rotations.outer_backward, (x.detach(), u.detach(), a.detach(), index[1]))
    wr, wx, c = random(5, 7).T, random(4, 5), random(5, 7).T
    check(hidden.hidden, (wr, wx, wx, *index, *by_source, offsets, random(5), c, [1, -1, 0, 1], torch.float32))
    inputs = (wr.detach(), wx.detach(), None, *index, random(5, grad=False), c.detach(), [1, 1])
    check(hidden.hidden_backward, (random(1, 7, 5, grad=False), *inputs))
    check(hidden.sum_edges, (c.detach(), *by_source))
    low, places = random(7, 4, 3), Places.among(rows_up_to(1, 1), rows)
    of_low, low_of_row = places.of_low.to(DEVICE), places.low_of_row.to(DEVICE)
    results, weights = [random(2, 7, 7, 3), random(2, 7, 3, 7).transpose(2, 3)], random(2, 7, 3)
    check(combine.combine, (low, low_of_row, of_low, results, weights, True))
    check(combine.combine_backward, (y.detach(), results[1].detach(), a.detach(), True))
    to_grid, from_grid = random(6, 4, grad=False), random(2, 6, grad=False)
    check(sphere.sphere_silu, (low, to_grid, random(3), from_grid, torch.float32))
    check(sphere.sphere_silu, (low.detach().mT.contiguous().mT.requires_grad_(), to_grid, None, None, torch.float32))
    check(sphere.sphere_silu, (y.detach()[:, 1:].requires_grad_(), None, random(3), from_grid, torch.float32))
    check(sphere.sphere_silu_backward, (y.detach()[:, :2], low.detach(), to_grid, random(3, grad=False), from_grid))
    check(gather.gather, (random(5, 4).T, index[0], *by_source))
    strided, weight = random(9, 2, 3).transpose(0, 1), random(3, 3).T
    check(degree_norm.degree_norm, (strided, weight, random(3), True, 1e-5))
    check(degree_norm.degree_norm_backward, (strided.detach(), strided.detach(), weight.detach(), True, 1e-5))
    check(rotate_channel.rotate_channel, (random(3, 9), wigner[:3], place, 7, False))
    check(rotate_channel.rotate_channel, (random(7, 3).T, wigner[:3], place, 7, True))
    mixed = [[random(3, 1, 2), random(3, 2, 4)] for _ in Atom]
    check(gate_orders.gate_orders, (*mixed, random(12, 3).T))
    no_grad = [[tensor.detach() for tensor in of_atom] for of_atom in mixed]
    upstream = [random(3, 1, 4, grad=False), random(3, 8, 2, grad=False).mT]
    check(gate_orders.gate_orders_backward, (upstream, *no_grad, random(3, 12, grad=False)))
    joint, bias = random(7, 5 * 3), random(2 * 3)
    check(gate.gate, (joint, bias, a, 3, [SILU_SCALE, SIGMOID_SCALE]))
    check(gate.gate_backward, (low.detach(), joint.detach(), bias.detach(), a.detach(), 3, [1.0, 2.0]))
    try:
        hidden.hidden(wr, wx, wx, *index, *by_source, offsets, random(5), c, [1, 1, 1, 1, 1, 1], torch.float32)
    except ValueError as error:
        assert str(error).startswith("hidden: one or two pairs of factors"), error
    else:
        raise AssertionError("three evaluations were accepted")


def outcome(model: nn.Module, graph: Clusters) -> list[Tensor | None]:
    energy = model(*(v.to(DEVICE) if isinstance(v, Tensor) else v for v in graph.arguments()))["energy"]
    return [energy, *torch.autograd.grad(energy.sum(), tuple(model.parameters()), allow_unused=True)]


def check_networks() -> None:
    """Every kind of message, stored and recomputed, against the plain equations."""
    kinds: list[dict[str, Any]] = [
        {}, {"preset": "authors", "activations": "recompute"}, {"mlp": "separate"}, {"message": "fully_tp"},
        {"tensor_product": "fully_connected", "attention": "softmax"},
    ]  # fmt: skip
    graph, exact = (clusters((3, 2), dtype=dtype) for dtype in (torch.float32, torch.float64))
    for keys in kinds:
        fused = network(torch.float32, **keys, implementation="triton").to(DEVICE)
        reference = network(torch.float64, **keys, implementation="reference").to(DEVICE)
        equal(fused, reference, graph, exact)
    fused, reference = (escn(implementation=name).to(DEVICE) for name in ("triton", "reference"))
    equal(fused, reference.double(), graph, exact)


def equal(fused: nn.Module, reference: nn.Module, graph: Clusters, exact: Clusters) -> None:
    reference.load_state_dict(fused.state_dict())
    for got, wanted in zip(outcome(fused, graph), outcome(reference, exact)):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            assert float((got - wanted).norm()) < 1e-4 * max(1e-3, float(wanted.norm()))


def check_repeats() -> None:
    """The same step twice, to the last bit."""
    graph = clusters((4, 2), dtype=torch.float32)
    model = network(torch.float32, preset="authors", num_resolutions=1, implementation="triton").to(DEVICE)
    for first, second in zip(outcome(model, graph), outcome(model, graph)):
        assert (first is None) == (second is None)
        assert first is None or second is None or torch.equal(first, second)


def check_device() -> None:
    """Launched on the device of the tensors, and not at all without programs; tensors may have other strides."""
    guarded: list[torch.device] = []
    launches: list[tuple[Any, ...]] = []

    @contextlib.contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        guarded.append(tensor.device)
        yield
        guarded.pop()

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **sizes: launches.append((grid, list(guarded), arguments, sizes))

    x = random(4, 3, 9).mT
    with mock.patch.object(torch.cuda, "device_of", device_of):
        launching.launch(Kernel(), (2, 3), (x, 5), rows=7)
        launching.launch(Kernel(), (2, 0), (x, 5), rows=7)
    assert launches == [((2, 3), [x.device], (x, 5), {"rows": 7})]
    assert not guarded

    of = edges(4, 6, 2, 2)
    block, rows = of.blocks(None)[0], rows_up_to(2, 1)
    index = torch.stack([block.source, block.target], 1)[:, 0]
    assert not index.is_contiguous() and not x.is_contiguous()
    place = row_places(2, rows, index.device)
    got = rotations.gather_rotate(x, index, *block.by_source, block.wigner, place, 7, torch.float32)
    assert_close(got, block.rotation(2, rows) @ x[index])


def check_launches() -> None:
    """Of a further layer, forward and backward; a kernel is one operation, and need not run to be counted."""
    with mock.patch.object(launching, "launch", lambda *arguments, **sizes: None):
        for make, most in ((hdgnn, 270), (escn, 160)):
            further, waits = further_layer(make, "store", implementation="triton")
            assert 100 < sum(further.values()) <= most, further
            assert waits == 0


def main(names: list[str]) -> None:
    torch.manual_seed(0)
    # Fills memory that is not written with values that are not numbers.
    torch.use_deterministic_algorithms(True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        take_the_branches_of_a_gpu(monkeypatch)
        for name in names:
            globals()[f"check_{name}"]()
    print("right")


if __name__ == "__main__":
    main(sys.argv[1:])
