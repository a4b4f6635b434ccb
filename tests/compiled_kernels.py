"""Compiles every Triton kernel for GPUs, where there is none, and prints the resources that each needs as JSON.

The operations run on small tensors of the shipped configurations' sizes; what they would launch is compiled instead.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import EdgeBlock, Edges, rows_up_to
from fairchem_hdgnn.models.hdgnn.norm import DegreeLayerNorm
from fairchem_hdgnn.models.kernels import launching
from fairchem_hdgnn.models.ops.edge_ops import Atom, OuterProduct
from fairchem_hdgnn.models.ops.gated_network import DIFFERENCE, PLAIN, GatedMlp, GatedTerm, Places
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.so2 import InnerWeights, num_terms, rows_by_order
from fairchem_hdgnn.models.ops.sphere import PointwiseNetwork
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps, on_sphere_fused
from fairchem_hdgnn.models.so3.layout import num_coefficients

NAMES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.int32: "*i32"}
TOOL = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
Launch = tuple[Any, dict[str, str], dict[str, Any], int]
launches: dict[str, tuple[Launch, int]] = {}
"""Each with the smallest lmax that needs it."""


def record(
    lmax: int, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], *, num_warps: int, **sizes: Any
) -> None:
    """In place of a launch."""
    kinds = [NAMES[value.dtype] if isinstance(value, Tensor) else "i32" for value in arguments]
    signature = {**dict(zip(kernel.arg_names, kinds)), **dict.fromkeys(sizes, "constexpr")}
    signature = {name: signature[name] for name in kernel.arg_names}
    launch = (kernel, signature, sizes, num_warps)
    launches.setdefault(str((kernel.__name__, signature, sizes)), (launch, lmax))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape).requires_grad_()


def use(lmax: int, mmax: int, lmax_metp: int, channels: int, width: int, dtype: torch.dtype, count: int) -> None:
    """All operations of a message, forward and backward, on this many edges into one atom."""
    wigner = torch.randn(count, 2 * max(mmax, lmax_metp) + 1, num_coefficients(lmax))
    edges = Edges(torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long), wigner, 2)
    ops = TritonEdgeOps(edges.blocks(None)[0], Pass(Compute(dtype, tf32=False)))
    rows, low_rows, x = (
        rows_up_to(lmax, mmax),
        rows_up_to(lmax_metp, lmax_metp),
        random(2, num_coefficients(lmax), channels),
    )
    every = (*rows, *(row for row in low_rows if row not in rows))
    a, projected, c = random(count, channels), random(2, width), random(count, width).to(dtype)
    planes = num_coefficients(lmax_metp) + lmax_metp
    inputs = len(rows_up_to(lmax, lmax_metp))
    matrix, bias = random(inputs, planes * channels), random((lmax_metp + 1) * channels)
    low = ops.gated_product(random(count, inputs), matrix, bias, channels, a)
    planes, inputs = num_coefficients(lmax) + lmax, num_coefficients(lmax)
    ops.gated_product(random(count, inputs), random(inputs, planes), random(lmax + 1), 1, None).sum().backward()
    network = GatedMlp(len(rows) * channels, width, len(rows) * channels, output_activation=True)
    pair = ops.gather_rotate_pair(x, x, lmax, rows)
    sides = ((projected, None), (None, projected), (projected, projected))
    terms = [GatedTerm(network, (DIFFERENCE, PLAIN), rotated, side, c, a) for rotated, side in zip(pair, sides)]
    y = ops.add_terms(low, Places.among(low_rows, every), terms)
    out = ops.rotate_scatter(y, lmax, every, OuterProduct(random(count, num_coefficients(lmax)), a))
    (out.sum() + ops.gather_rotate(x, Atom.SOURCE, lmax, rows).sum()).backward()


def use_more(lmax: int, mmax: int, channels: int, hidden: int, dtype: torch.dtype) -> None:
    """Norm, update, single channels, and a message of eSCN, on three edges."""
    wigner, none = torch.randn(3, 2 * mmax + 1, num_coefficients(lmax)), torch.zeros(3, dtype=torch.long)
    run = Pass(Compute(dtype, tf32=False))
    ops = TritonEdgeOps(Edges(none, none, wigner, 2).blocks(None)[0], run)
    x, rows = random(2, num_coefficients(lmax), channels), rows_by_order(lmax, mmax)
    rotated = ops.rotate_channel(x[0].T[:3], rows)
    (rotated.sum() + ops.rotate_channel_back(rotated, lmax, rows).sum()).backward()

    points = 2 * (lmax + 1) * (2 * lmax + 3)
    network = (random(2 * channels), random(2 * channels, 2 * channels), random(2 * channels))
    grids = torch.randn(points, num_coefficients(lmax)), torch.randn(num_coefficients(lmax) + 1, points)
    normalised = DegreeLayerNorm(lmax, channels)(x, fused=True)
    on_sphere_fused(normalised.repeat(1, 1, 2), PointwiseNetwork(*grids, *network), run.compute).sum().backward()

    inner = [tuple(random(channels, num_terms(min(l, mmax)) * hidden) for l in range(lmax + 1)) for _ in Atom]
    mixed = [ops.gather_mix_rotate(x, atom, InnerWeights(of, hidden, mmax)) for atom, of in zip(Atom, inner)]
    scales = num_terms(mmax) * 2 * hidden
    gated = ops.gate_orders(*mixed, random(3, 8), random(scales, 8), random(scales))
    outer = [random(values.shape[2], (lmax + 1 - m) * channels) for m, values in enumerate(gated)]
    y = ops.join_orders(gated, outer, channels, torch.float32)
    points = 2 * (lmax + 1) * (2 * mmax + 1)
    grids = torch.randn(points, len(rows)), torch.randn(len(rows), points)
    ops.rotate_scatter(ops.on_sphere(y, PointwiseNetwork(*grids)), lmax, rows).sum().backward()


def resources(capability: int, launch: Launch) -> tuple[int, int, int]:
    """Registers of a thread, bytes of its stack, which holds what did not fit into them, and shared memory in bytes."""
    kernel, signature, sizes, num_warps = launch
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in sizes.items()},
        attrs={(k,): [["tt.divisibility", 16]] for k, name in enumerate(names) if signature[name].startswith("*")},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": num_warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([str(TOOL), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    return int(found[1]), int(found[2]), int(compiled.metadata.shared)


def main(capabilities: list[str]) -> None:
    Edges.on_cpu = EdgeBlock.on_cpu = False  # type: ignore[assignment,method-assign]
    both = (torch.float32, torch.bfloat16)
    sizes = ((4, 1, 1, 128, 128, both[1:]), (6, 1, 2, 128, 512, both), (8, 2, 8, 256, 256, both[:1]))
    for lmax, mmax, lmax_metp, channels, width, dtypes in sizes:
        launching.launch = partial(record, lmax)
        for dtype in dtypes:
            use(lmax, mmax, lmax_metp, channels, width, dtype, 1 if lmax == 4 else 3)
            use_more(lmax, 2, channels, 256, dtype)
    found = [
        [capability, launch[0].__name__, lmax, *resources(int(capability), launch)]
        for capability in capabilities
        for launch, lmax in launches.values()
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
