"""The kernels for GPUs against plain products: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

pytest.importorskip("triton", reason="no Triton for this platform")

CHECK = """
import torch
from fairchem_hdgnn.models.edges import EdgeBlock, Edges
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.ops.rotations import BatchedRotations
from fairchem_hdgnn.models.ops.triton_ops import TritonRotations

torch.manual_seed(0)
device = "cuda" if torch.cuda.is_available() else "cpu"
for nodes, edges, rows, columns, channels in ((5, 12, 7, 9, 40), (3, 0, 4, 4, 1), (4, 9, 19, 49, 70), (1, 3, 1, 1, 1)):
    x = torch.randn(nodes, columns, channels, device=device)
    y = torch.randn(edges, rows, channels, device=device)
    matrices = torch.randn(edges, rows, columns, device=device)
    target = torch.randint(nodes, (edges,), device=device).sort().values
    source = torch.randint(nodes, (edges,), device=device)
    plain, fused = BatchedRotations(), TritonRotations()
    for first in (0, nodes - 1):
        start = int((target < first).sum())
        part = matrices[start:]
        block = EdgeBlock(source[start:], target[start:], part[:, :1, :1], first, nodes, nodes)
        torch.testing.assert_close(fused.of_source(part, x, block), plain.of_source(part, x, block))
        torch.testing.assert_close(fused.of_target(part, x, block), plain.of_target(part, x, block))
        expected, got = x.clone(), x.clone()
        plain.add_to_target(part, y[start:], block, expected)
        fused.add_to_target(part, y[start:], block, got)
        torch.testing.assert_close(got, expected)

keys = dict(lmax=2, num_layers=2, sphere_channels=4, hidden_channels=8, edge_channels=8, readout_init="random")
edge_index = torch.tensor([[1, 2, 0, 2, 0], [0, 0, 1, 1, 2]], device=device)
arguments = (torch.tensor([1, 8, 29], device=device), edge_index, torch.randn(5, 3, device=device),
             torch.zeros(3, dtype=torch.long, device=device), 1)
networks = [(HDGNNNetwork, {**keys, "invariant_channels": 8}), (ESCNNetwork, keys)]
pairs = [
    [make({**keys, "implementation": name}).to(device).eval() for name in ("fast", "triton")]
    for make, keys in networks
]

def outcome(network):
    energy = network(*arguments)["energy"]
    return energy, *torch.autograd.grad(energy.sum(), tuple(network.parameters()), allow_unused=True)

for fast, triton in pairs:
    triton.load_state_dict(fast.state_dict())
expected = [outcome(fast) for fast, _ in pairs]
Edges.on_cpu = EdgeBlock.on_cpu = False
for (_, triton), wanted in zip(pairs, expected):
    for got, exact in zip(outcome(triton), wanted):
        assert (got is None) == (exact is None)
        if got is not None:
            torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-5)
print("equal")
"""

EDGE_CASES = """
import contextlib
import torch
from fairchem_hdgnn.models.ops import rotation_kernels
from fairchem_hdgnn.models.ops.rotation_kernels import gather_rotate, rotate_back_sum

device = "cuda" if torch.cuda.is_available() else "cpu"
new = lambda *shape: torch.randn(*shape, device=device)
numbers = lambda *values: torch.tensor(values, dtype=torch.long, device=device)

# Neither edges nor atoms; atoms without edges, whose sums stay; several steps apart in memory.
assert gather_rotate(new(0, 4, 9), new(0, 9, 5), numbers()).shape == (0, 4, 5)
rotate_back_sum(new(0, 4, 9), new(0, 4, 5), numbers(0), new(0, 9, 5))
out = new(2, 9, 5)
before = out.clone()
rotate_back_sum(new(0, 4, 9), new(0, 4, 5), numbers(0, 0, 0), out)
assert torch.equal(out, before)
for strided in (new(2, 5, 9).mT, new(4, 9, 5)[::2]):
    before = strided.clone()
    try:
        rotate_back_sum(new(3, 4, 9), new(3, 4, 5), numbers(0, 1, 3), strided)
    except ValueError as error:
        assert str(error).startswith("rotate_back_sum: out must be contiguous"), error
    else:
        raise AssertionError("not refused")
    assert torch.equal(strided, before)
index = torch.tensor([[0, 9], [1, 9], [0, 9]], device=device)[:, 0]
matrices, x = new(3, 4, 9), new(2, 9, 5)
torch.testing.assert_close(gather_rotate(matrices, x, index), torch.bmm(matrices, x[index]))

# What is launched: on the tensors' device, in the precision asked for.
launches, guarded = [], []

@contextlib.contextmanager
def device_of(tensor):
    guarded.append(tensor.device)
    yield
    guarded.pop()

class Kernel:
    def __getitem__(self, grid):
        return lambda *_, **blocks: launches.append((list(guarded), blocks["precision"]))

torch.cuda.device_of = device_of
rotation_kernels._gather_rotate_kernel = rotation_kernels._rotate_back_sum_kernel = Kernel()
torch.backends.cuda.matmul.allow_tf32 = True
for keywords in ({}, {"precision": "tf32"}, {"precision": "tf32x3"}):
    gather_rotate(matrices, x, index, **keywords)
    rotate_back_sum(matrices, new(3, 4, 5), numbers(0, 1, 3), new(2, 9, 5), **keywords)
assert launches == [([x.device], name) for name in ("ieee", "tf32", "tf32x3") for _ in range(2)], launches
rotate_back_sum(new(0, 4, 9), new(0, 4, 5), numbers(0, 0, 0), out)
gather_rotate(new(0, 4, 9), x, numbers())
assert len(launches) == 6
print("right")
"""


@pytest.mark.parametrize(
    ("check", "answer"), [(CHECK, "equal\n"), (EDGE_CASES, "right\n")], ids=["values", "edge cases"]
)
def test_kernels(check: str, answer: str) -> None:
    """In a process of its own, as the interpreter is chosen when Triton is imported."""
    interpreter = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", check],
        env={**os.environ, **interpreter},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout == answer, done.stderr


def test_kernels_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match="implementation: triton runs on GPUs only"):
        HDGNNNetwork({"implementation": "triton", "lmax": 1, "num_layers": 1, "sphere_channels": 2})(
            torch.tensor([1, 1]),
            torch.tensor([[0, 1], [1, 0]]),
            torch.ones(2, 3),
            torch.tensor([0, 0]),
            1,
        )
