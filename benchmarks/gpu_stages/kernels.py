"""The operations of a message, plain and by kernels, compared with float64 and with the card's copy."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.precision import Compute, full_precision
from fairchem_hdgnn.models.edges import Edges, rows_up_to
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps, FastEdgeOps, OuterProduct
from fairchem_hdgnn.models.ops.gated_network import DIFFERENCE, PLAIN, GatedMlp, GatedTerm, Places, Rotated
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps
from fairchem_hdgnn.models.so3.grid import grid_matrices
from fairchem_hdgnn.models.so3.layout import num_coefficients
from gpu_stages.bench import Bench, attempt, frames_of, largest, relative, usual_graph, within

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}


class Sizes(NamedTuple):
    """L, L', channels and hidden width of one message."""

    lmax: int
    lmax_metp: int
    channels: int
    hidden: int


USUAL, TINY = Sizes(6, 2, 128, 512), Sizes(2, 1, 4, 8)


class Operation(NamedTuple):
    """One operation of a message.

    Attributes:
        inputs: what it is differentiated by, float32.
        run: its results, from operations on edges and from the inputs.
        weights: what else it reads, and gives a gradient in the backward pass.
    """

    inputs: list[Tensor]
    run: Callable[[EdgeOps, list[Tensor]], list[Tensor]]
    weights: Sequence[Tensor] = ()


def kernels(bench: Bench) -> list[dict[str, Any]]:
    """Times and errors of each operation; by Triton's kernels on a GPU or in Triton's interpreter."""
    sizes = TINY if bench.tiny else USUAL
    graph = usual_graph(bench)
    nodes, (source, target) = len(graph[0]), graph[1].to(bench.device)
    wide = Edges.from_frames(
        source, target, frames_of(graph).to(bench.device), nodes, sizes.lmax, max(1, sizes.lmax_metp)
    )
    edges = Edges(source, target, wide.wigner.float(), nodes)
    rows: list[dict[str, Any]] = []
    has_kernels = bench.on_gpu or os.environ.get("TRITON_INTERPRET") == "1"
    for name, operation in operations(bench, edges, sizes).items():
        for precision in DTYPES:
            for implementation in ("fast", "triton") if has_kernels else ("fast",):
                row = {"operation": name, "implementation": implementation, "precision": precision}
                work = partial(measure, bench, edges, operation, implementation, precision)
                left = bench.seconds_left() > 1 or bench.tiny
                rows.append({**row, **(attempt(work) if left else {"skipped": "no time was left"})})
                bench.save(rows)
        bench.free()
    return rows


def operations(bench: Bench, edges: Edges, sizes: Sizes) -> dict[str, Operation]:
    """Those of the authors' message."""
    generator = torch.Generator(bench.device).manual_seed(0)
    lmax, lmax_metp, channels, hidden = sizes
    rows, low_rows, coefficients = rows_up_to(lmax, 1), rows_up_to(lmax_metp, lmax_metp), num_coefficients(lmax)
    every = (*rows, *(row for row in low_rows if row not in rows))
    places = Places(*(tensor.to(bench.device) for tensor in Places.among(low_rows, every)))
    count, nodes, width = edges.num_edges, edges.num_nodes, len(rows) * channels
    inputs = len(rows_up_to(lmax, lmax_metp))

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=bench.device)

    torch.manual_seed(0)
    layers = [GatedMlp(width, hidden, width, output_activation=True), nn.Linear(channels, hidden)]
    modules = nn.ModuleList(layers).to(bench.device)
    modules_of: dict[torch.dtype, Any] = {torch.float32: modules, torch.float64: copy.deepcopy(modules).double()}

    def add_terms(ops: EdgeOps, tensors: list[Tensor]) -> list[Tensor]:
        low, a, features, of_source, of_target, *rotated = tensors
        network, layer = modules_of[low.dtype]
        (c,) = ops.gate_features(features, [layer])
        dtype = ops.run.compute.dtype if isinstance(ops, TritonEdgeOps) else low.dtype
        sides = ((of_source, None), (None, of_target), (of_source, of_target))
        terms = [
            GatedTerm(network, (DIFFERENCE, PLAIN), Rotated(value.to(dtype)), side, c, a)
            for value, side in zip(rotated, sides)
        ]
        return [ops.add_terms(low, places, terms)]

    def on_sphere(ops: EdgeOps, tensors: list[Tensor]) -> list[Tensor]:
        x, *weights = tensors
        grid = grid_matrices(lmax, (2 * (lmax + 1), 2 * lmax + 3))
        return [ops.on_sphere(x, PointwiseNetwork(*(matrix.to(x) for matrix in grid), *weights))]

    return {
        "update on the sphere": Operation(
            [
                randn(nodes, coefficients, 2 * channels),
                randn(2 * channels),
                (2 * channels) ** -0.5 * randn(2 * channels, 2 * channels),
                randn(2 * channels),
            ],
            on_sphere,
        ),
        "SiLU on the sphere of each edge": Operation([randn(count, coefficients, channels)], on_sphere),
        "gather and rotate, both atoms": Operation(
            [randn(nodes, coefficients, channels)],
            lambda ops, t: [value for value, _ in ops.gather_rotate_pair(t[0], t[0], lmax, rows)],
        ),
        "rotate back and sum": Operation(
            [randn(count, len(every), channels), randn(count, coefficients), randn(count, channels)],
            lambda ops, t: [ops.rotate_scatter(t[0], lmax, every, OuterProduct(t[1], t[2]))],
        ),
        "gated product of METP": Operation(
            [
                randn(count, inputs),
                randn(inputs, (num_coefficients(lmax_metp) + lmax_metp) * channels),
                randn((lmax_metp + 1) * channels),
                randn(count, channels),
            ],
            lambda ops, t: [ops.gated_product(t[0], t[1], t[2], channels, t[3])],
        ),
        "learned terms, with their products": Operation(
            [
                randn(count, len(low_rows), channels),
                randn(count, channels),
                randn(count, channels),
                *(randn(nodes, hidden) for _ in range(2)),
                *(randn(count, len(rows), channels) for _ in range(3)),
            ],
            add_terms,
            list(modules.parameters()),
        ),
    }


IMPLEMENTATIONS: dict[str, type[EdgeOps]] = {"fast": FastEdgeOps, "triton": TritonEdgeOps}


def measure(bench: Bench, edges: Edges, operation: Operation, implementation: str, precision: str) -> dict[str, Any]:
    """One operation in one form."""
    inputs = [tensor.requires_grad_() for tensor in operation.inputs]
    compute = Compute(DTYPES[precision], tf32=False)
    block = edges.blocks(None)[0]

    def forward() -> tuple[Pass, list[Tensor]]:
        run = Pass(compute, [*inputs, *operation.weights])
        return run, operation.run(IMPLEMENTATIONS[implementation](block, run), inputs)

    upstream = [torch.randn_like(result) for result in forward()[1]]

    def both() -> list[Tensor]:
        run, results = forward()
        found = torch.autograd.grad(results, inputs, upstream, allow_unused=True)
        gradients = [run.total(x) if gradient is None else gradient for x, gradient in zip(inputs, found)]
        return [*(result.detach() for result in results), *gradients]

    with full_precision(inputs[0]):
        error = largest(map(relative, both(), exact(edges, operation, inputs, upstream)))
        bench.free()
        with torch.no_grad():
            forward_ms = bench.milliseconds(forward, seconds=0.2, together=5)
        both_ms = bench.milliseconds(both, seconds=0.3, together=3)
        moved = sum(tensor.nbytes for tensor in (*inputs, *operation.weights, *forward()[1]))
    copy_rate = bench.ceilings.get("copy")
    return {
        "forward_ms": forward_ms,
        "both_ms": both_ms,
        "error": error,
        "share_of_copy": moved / forward_ms / copy_rate if copy_rate else None,
        "ok": within(TOLERANCE[precision], error),
    }


def exact(edges: Edges, operation: Operation, inputs: list[Tensor], upstream: list[Tensor]) -> list[Tensor]:
    """Values and gradients by the plain equations in float64."""
    wide = Edges(edges.source, edges.target, edges.wigner.double(), edges.num_nodes)
    leaves = [tensor.detach().double().requires_grad_() for tensor in inputs]
    ops = EdgeOps(wide.blocks(None)[0], Pass(Compute(torch.float64, tf32=False)))
    results = operation.run(ops, leaves)
    gradients = torch.autograd.grad(results, leaves, [tensor.double() for tensor in upstream])
    return [*(result.detach() for result in results), *gradients]
