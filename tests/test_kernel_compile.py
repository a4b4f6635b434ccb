"""Each Triton kernel compiled for an H100 (sm_90), where there is no GPU: it compiles, and keeps to its registers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="no Triton for this platform")

KERNELS = ("_gather_rotate_kernel", "_rotate_back_sum_kernel")
SHAPES = {"network": (19, 49, 128), "far": (13, 25, 128), "fifth": (1, 49, 128), "fifth, backward": (1, 128, 49)}
"""Rows, columns and channels of the products in the shipped configurations."""

LARGEST = "fifth, backward"
PRECISIONS = ("ieee", "tf32", "tf32x3")
MOST_REGISTERS = 168
"""At 4 warps a block: three blocks fit on a multiprocessor."""

COMPILE = """
import json, re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairchem_hdgnn.models.ops import rotation_kernels

tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
results = []
for name, shape, precision in json.loads(sys.argv[1]):
    kernel = getattr(rotation_kernels, name)
    _, blocks = rotation_kernels._layout(1, *shape, precision)
    names, pointers = kernel.arg_names, {"index": "*i64", "ends": "*i64"}
    signature = {n: "constexpr" if n in blocks else pointers.get(n, "*fp32") for n in names}
    constants = {(names.index(n),): value for n, value in blocks.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["cubin"]
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        usage = subprocess.run([str(tool), "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    results.append([int(number) for number in re.search(r"REG:(\\d+) STACK:(\\d+)", usage).groups()])
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def resources() -> dict[tuple[str, str, str], tuple[int, int]]:
    """Registers of a thread, and bytes of its stack, which holds what did not fit into them.

    In a process of its own: another test may have chosen Triton's interpreter.
    """
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 2):
        pytest.skip(f"Triton {triton.__version__} compiles without a GPU by another interface")
    cases = [(kernel, shape, precision) for kernel in KERNELS for shape in SHAPES for precision in PRECISIONS]
    asked: list[Any] = [(kernel, SHAPES[shape], precision) for kernel, shape, precision in cases]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-c", COMPILE, json.dumps(asked)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(cases, map(tuple, json.loads(done.stdout.splitlines()[-1]))))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_compiles_for_sm_90(resources, kernel, shape, precision):
    """Without spills, but for one: the fifth term's backward pass, whose blocks are the largest, in plain float32."""
    registers, stack = resources[kernel, shape, precision]
    assert registers <= (255 if shape == LARGEST else MOST_REGISTERS)
    if (kernel, shape, precision) != ("_gather_rotate_kernel", LARGEST, "ieee"):
        assert stack == 0
