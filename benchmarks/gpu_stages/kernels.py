"""The Triton kernels compared with torch's products, with float64, and with the peak rates of the GPU."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.ops.rotations import BatchedRotations
from gpu_stages.bench import ATOMS as ATOMS_EACH
from gpu_stages.bench import NEIGHBORS, SYSTEMS, Bench, attempt

SHAPES = ((19, 49, 128), (21, 49, 128), (13, 25, 128), (1, 49, 128), (1, 128, 49))
"""(rows, columns, channels): |m| <= 1 at L = 6, the same with METP's rows, L = 4, and the fifth term both ways."""

TOLERANCE = {"ieee": 1e-5, "tf32": 1e-3, "tf32x3": 1e-5}
ATOMS = SYSTEMS * ATOMS_EACH


def kernels(bench: Bench) -> list[dict[str, Any]] | dict[str, str]:
    """Error, time, and share of the copy's and the matrix products' rate, for each shape and precision."""
    if not bench.on_gpu:
        return {"skipped": "Triton's kernels need a GPU; tests/test_rotation_kernels.py runs them in its interpreter"}
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        inputs = [Inputs(shape, seed, bench) for seed in range(2)]
        for name in ("gather and rotate", "rotate back and sum"):
            for label in ("torch", *TOLERANCE):
                if bench.seconds_left() < 1:
                    return rows
                found = attempt(partial(measure, bench, name, label, inputs))
                rows.append({"kernel": name, "shape": list(shape), "form": label, **found})
        bench.free()
    return rows


class Inputs:
    """Random matrices and features; two sets together are larger than the card's cache."""

    def __init__(self, shape: tuple[int, int, int], seed: int, bench: Bench) -> None:
        rows, columns, channels = self.shape = shape
        generator = torch.Generator(bench.device).manual_seed(seed)
        edges = ATOMS * NEIGHBORS

        def randn(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, device=bench.device)

        self.target = torch.arange(ATOMS, device=bench.device).repeat_interleave(NEIGHBORS)
        self.source = torch.randint(ATOMS, (edges,), generator=generator, device=bench.device)
        self.matrices, self.x = randn(edges, rows, columns), randn(ATOMS, columns, channels)
        self.y, self.out = randn(edges, rows, channels), torch.zeros(ATOMS, columns, channels, device=bench.device)
        self.ends = torch.arange(0, edges + 1, NEIGHBORS, device=bench.device)
        entries = torch.zeros(edges, 1, 1, device=bench.device)
        self.block = Edges(self.source, self.target, entries, ATOMS).blocks(None)[0]

    @property
    def bytes_moved(self) -> int:
        """Each operand once."""
        return self.matrices.nbytes + self.x.nbytes + self.y.nbytes

    @property
    def operations(self) -> int:
        """Two for a multiply-add."""
        rows, columns, channels = self.shape
        return 2 * ATOMS * NEIGHBORS * rows * columns * channels

    def run(self, name: str, label: str) -> Tensor:
        """One product; ``rotate back and sum`` adds to ``out``."""
        from fairchem_hdgnn.models.ops import rotation_kernels  # noqa: PLC0415 - there is no Triton everywhere

        precision: Any = label

        if name == "gather and rotate":
            if label == "torch":
                return BatchedRotations().of_source(self.matrices, self.x, self.block)
            return rotation_kernels.gather_rotate(self.matrices, self.x, self.source, precision)
        if label == "torch":
            BatchedRotations().add_to_target(self.matrices, self.y, self.block, self.out)
        else:
            rotation_kernels.rotate_back_sum(self.matrices, self.y, self.ends, self.out, precision)
        return self.out

    def expected(self, name: str) -> Tensor:
        """In float64."""
        matrices = self.matrices.double()
        if name == "gather and rotate":
            return torch.bmm(matrices, self.x.double()[self.source])
        messages = torch.bmm(matrices.mT, self.y.double())
        return messages.view(ATOMS, NEIGHBORS, *messages.shape[1:]).sum(1)


def measure(bench: Bench, name: str, label: str, inputs: list[Inputs]) -> dict[str, Any]:
    """One kernel at one shape."""
    for each in inputs:
        each.out.zero_()
    expected = inputs[0].expected(name)
    # What the kernel does not write stays not a number, since the allocator hands out the block that was just freed.
    torch.full_like(inputs[0].y, torch.nan)
    error = float((inputs[0].run(name, label).double() - expected).norm() / expected.norm())
    del expected
    ms = bench.milliseconds(lambda: [each.run(name, label) for each in inputs], seconds=0.3) / len(inputs)
    return {
        "ms": ms,
        "error": error,
        "share_of_copy": inputs[0].bytes_moved / ms / bench.ceilings["copy"],
        "share_of_float32": inputs[0].operations / ms / bench.ceilings["float32"],
        "ok": error < TOLERANCE.get(label, 1e-5),
    }
