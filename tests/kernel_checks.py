"""Checks of the Triton kernels, for a process of its own: on a GPU where there is one, else in Triton's interpreter.

Memory that a kernel does not write is not a number.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import interpreted
import kernel_operations
import pytest
import torch
from emulated_tf32 import take_the_branches_of_a_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_inputs import DEVICE, edges, random
from small_networks import Clusters, clusters, network, randomise
from test_hdgnn_reference import configurations
from test_launches import escn, further_layer, hdgnn
from torch import Tensor, nn
from torch.testing import assert_close

from fairchem_hdgnn.host.counting import WorkCounter
from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import rows_up_to
from fairchem_hdgnn.models.kernels import (
    combine,
    degree_norm,
    gate_orders,
    gated_product,
    gather,
    hidden,
    launching,
    rotate_channel,
    rotations,
    sphere,
    sum_edges,
)
from fairchem_hdgnn.models.ops import blocks
from fairchem_hdgnn.models.ops.edge_ops import Atom
from fairchem_hdgnn.models.ops.gate import SIGMOID_SCALE, SILU_SCALE
from fairchem_hdgnn.models.ops.gated_network import Places
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.ops.triton_ops import on_sphere_fused, row_places


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
    wr, wx, c = random(2, 5, 7).mT, random(4, 5), random(5, 7).T
    at_edges = (*index, *by_source, offsets, random(5), c)
    check(hidden.hidden, (wr, wx, wx, *at_edges, [1, -1, 0, 1], 2, False, torch.float32))
    check(hidden.hidden, (wr[:1].detach(), wx, None, *at_edges, [1, -1, 0, 1], 1, True, torch.float32))
    inputs = (wr.detach(), wx.detach(), None, *index, random(5, grad=False), c.detach(), [1, 1], 2, False)
    check(hidden.hidden_backward, (random(2, 1, 7, 5, grad=False), *inputs))
    check(sum_edges.sum_edges, (c.detach(), *by_source))
    low, places = random(7, 4, 3), Places.among(rows_up_to(1, 1), rows)
    of_low, low_of_row = places.of_low.to(DEVICE), places.low_of_row.to(DEVICE)
    results = [random(2, 2, 7, 7, 3), random(1, 2, 7, 3, 7).transpose(3, 4)]
    weights = [random(7, 3), random(7, 2, 3)[:, 1].detach().requires_grad_(), a]
    check(combine.combine, (low, low_of_row, of_low, results, weights, True))
    for activated in (True, False):
        check(combine.combine_backward, (y.detach(), results[1].detach(), [a.detach()], activated))
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
    factor, matrix, bias = random(6, 7).T, random(6, 5 * 3), random(2 * 3)
    check(gated_product.gated_product, (factor, matrix, bias, a, 3, [SILU_SCALE, SIGMOID_SCALE]))
    inputs = (factor.detach(), matrix.detach(), bias.detach(), weights[1].detach(), 3, [1.0, 2.0])
    check(gated_product.gated_product_backward, (low.detach(), *inputs))
    with pytest.raises(ValueError, match=r"^hidden: one or two pairs of factors"):
        hidden.hidden(wr, wx, wx, *at_edges, [1, 1, 1, 1, 1, 1], 2, False, torch.float32)
    with pytest.raises(ValueError, match=r"^hidden: one or two sides; got 3"):
        hidden.hidden(None, wx, wx, *at_edges, [1, 1], 3, False, torch.float32)
    with pytest.raises(ValueError, match=r"^combine: .* and 2 a$"):
        combine.combine(low, low_of_row, of_low, results, weights[:2], True)


def outcome(model: nn.Module, graph: Clusters) -> list[Tensor | None]:
    energy = model(*(v.to(DEVICE) if isinstance(v, Tensor) else v for v in graph.arguments()))["energy"]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [energy, *torch.autograd.grad(energy.sum(), parameters, allow_unused=True)]


def check_networks() -> None:
    """Every kind of message, stored and recomputed, in one block of edges and in several."""
    kinds: list[dict[str, Any]] = [
        {}, {"preset": "authors", "activations": "recompute"}, {"mlp": "separate"}, {"message": "fully_tp"},
        {"tensor_product": "fully_connected", "attention": "softmax"}, {"attention": [0.3, 0.3, 0.3, 0.1]},
        {"message": "linear", "neural_input": "rotated", "layer_norm": "off"}, {"message": "unrestricted"},
        {"neural_input": "rotated", "extra_linear": True, "invariant_branch": False},
    ]  # fmt: skip
    graph, exact = (clusters((3, 2), dtype=dtype) for dtype in (torch.float32, torch.float64))
    for keys in kinds:
        fused = network(torch.float32, **keys, implementation="triton").to(DEVICE)
        reference = network(torch.float64, **keys, implementation="reference").to(DEVICE)
        equal(fused, reference, graph, exact)
    for most, activations in ((blocks.NUMBERS_ON_GPU, "recompute"), (3000, "store")):
        fused, reference = (
            escn(implementation=name, activations=activations, readout_init="random").to(DEVICE)
            for name in ("triton", "reference")
        )
        randomise(fused)
        with mock.patch.object(blocks, "NUMBERS_ON_GPU", most):
            equal(fused, reference.double(), graph, exact)


def check_combinations() -> None:
    """Random combinations of options, in one block of edges or several.

    Some magnify rounding: the kernels may be off as far as the plain equations in float32 are, ten times over.
    """
    graph, exact = (clusters((3, 2), dtype=dtype) for dtype in (torch.float32, torch.float64))

    @settings(max_examples=6, deadline=None, derandomize=True, database=None)
    @given(keys=configurations(), most=st.sampled_from([1, 100, blocks.NUMBERS_ON_GPU]))
    def check(keys: dict[str, Any], most: int) -> None:
        fused, plain, reference = (
            network(dtype, **keys, implementation=name).to(DEVICE)
            for dtype, name in ((torch.float32, "triton"), (torch.float32, "reference"), (torch.float64, "reference"))
        )
        for model in (plain, reference):
            model.load_state_dict(fused.state_dict())
        with mock.patch.object(blocks, "NUMBERS_ON_GPU", most):
            found = outcome(fused, graph)
        for got, rounded, wanted in zip(found, outcome(plain, graph), outcome(reference, exact)):
            assert (got is None) == (wanted is None)
            if got is not None and rounded is not None and wanted is not None:
                bound = max(1e-4 * max(1e-3, float(wanted.norm())), 10 * float((rounded - wanted).norm()))
                assert float((got - wanted).norm()) < bound

    check()


def check_frozen() -> None:
    """Gradients where every third parameter has none, beginning with each of the first three."""
    graph, exact = (clusters((3, 2), dtype=dtype) for dtype in (torch.float32, torch.float64))
    for make, first in itertools.product((hdgnn, escn), range(3)):
        fused, reference = (make(implementation=name, readout_init="random") for name in ("triton", "reference"))
        randomise(fused)
        for model in (fused, reference):
            for parameter in list(model.to(DEVICE).parameters())[first::3]:
                parameter.requires_grad_(False)
        equal(fused, reference.double(), graph, exact)


def equal(fused: nn.Module, reference: nn.Module, graph: Clusters, exact: Clusters) -> None:
    reference.load_state_dict(fused.state_dict())
    for got, wanted in zip(outcome(fused, graph), outcome(reference, exact)):
        assert (got is None) == (wanted is None)
        if got is not None and wanted is not None:
            assert float((got - wanted).norm()) < 1e-4 * max(1e-3, float(wanted.norm()))


def check_repeats() -> None:
    """The same step twice, to the last bit; on a GPU, programs end in another order each time."""
    graph = clusters((3,), dtype=torch.float32)
    models = (
        network(torch.float32, preset="authors", num_resolutions=1, implementation="triton"),
        escn(implementation="triton", readout_init="random"),
    )
    for model in models:
        model.to(DEVICE)
        for first, second in zip(outcome(model, graph), outcome(model, graph)):
            assert (first is None) == (second is None)
            assert first is None or second is None or torch.equal(first, second)


def check_order() -> None:
    """Programs of a kernel may run in any order; a GPU chooses its own."""
    graph, models = clusters((3,), dtype=torch.float32), (hdgnn, escn)
    for make in models:
        model = make(implementation="triton", readout_init="random")
        randomise(model)
        with mock.patch.object(Compute, "chosen", lambda like: Compute(torch.bfloat16, tf32=False)):
            forwards = outcome(model, graph)
            assert interpreted.last_program() == 6
            with pytest.MonkeyPatch.context() as monkeypatch:
                interpreted.reverse_programs(monkeypatch)
                assert interpreted.last_program() == 0
                backwards = outcome(model, graph)
        for first, second in zip(forwards, backwards):
            assert (first is None) == (second is None)
            assert first is None or second is None or torch.equal(first, second)


def check_tf32() -> None:
    """What the other checks rely on to tell three TF32 products from one."""
    assert 1e-4 < interpreted.error_of_square(DEVICE, "tf32") < 1e-3
    assert interpreted.error_of_square(DEVICE, "tf32x3") < 2e-6
    assert interpreted.error_of_square(DEVICE, "ieee") < 2e-6


def check_benchmark() -> None:
    """The stage of the GPU benchmark that compares the kernels, one by one, with the plain equations."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    stages = importlib.import_module("gpu_stages.kernels")

    class Untimed(stages.Bench):
        def milliseconds(self, work: Callable[[], object], **limits: Any) -> float:
            work()
            return 1.0

    later = time.monotonic() + 600
    frames = torch.linalg.qr(torch.randn(3, 3, 3, dtype=torch.float64))[0]
    frames *= torch.linalg.det(frames)[:, None, None]
    graph = (torch.zeros(2), torch.tensor([[0, 1, 1], [0, 0, 1]]))
    with mock.patch.multiple(stages, usual_graph=lambda bench: graph, frames_of=lambda graph: frames):
        found = stages.kernels(Untimed(torch.device(DEVICE), True, Path(), Path(), later, later, "qm9"))
    assert {row["implementation"] for row in found} == {"fast", "triton"}
    assert all(row.get("ok") for row in found), found


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
    """Of a further layer, forward and backward; kernels need not run to be counted."""
    # The tensors are on the CPU everywhere.
    with mock.patch.dict(os.environ, TRITON_INTERPRET="1"):
        for make, most in ((hdgnn, 240), (escn, 155)):
            further, waits = further_layer(make, "store", implementation="triton")
            assert 100 < sum(further.values()) <= most, further
            assert waits == 0


def main(names: list[str]) -> None:
    checks = {**vars(kernel_operations), **globals()}
    torch.manual_seed(0)
    # Fills memory that is not written with values that are not numbers.
    torch.use_deterministic_algorithms(True)
    with pytest.MonkeyPatch.context() as monkeypatch:
        take_the_branches_of_a_gpu(monkeypatch)
        if interpreted.INTERPRETED:
            interpreted.round_tf32(monkeypatch)
        for name in names:
            checks[f"check_{name}"]()
    print("right")


if __name__ == "__main__":
    main(sys.argv[1:])
