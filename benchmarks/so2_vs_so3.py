"""Cost of an SO(3) and of an SO(2) convolution by degree: ``python benchmarks/so2_vs_so3.py``.

Both map features of all degrees up to L, C channels, on E edges to messages of all degrees up to L, with weights shared
by all edges: e3nn's ``FullyConnectedTensorProduct`` with the edge's spherical harmonics up to L, and ``SO2Linear``
below with all orders (M = L) between a rotation to the edge frame and one back. Harmonics and Wigner-D matrices are
precomputed. Both maps couple every degree with every other; the SO(2) map also covers harmonics of degrees up to 2L.

Prints the time of forward and of forward + backward and the peak memory of the latter (growth of the resident set in
a separate process, Linux's VmHWM), fits ``a L^p`` to the upper half of the degrees, and draws all three.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from e3nn import o3
from matplotlib.figure import Figure
from process_memory import resident_kib
from torch import nn
from tqdm import tqdm

from fairchem_hdgnn.evaluation.plot_style import colour, light_grid, save, style
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.layout import degrees_and_orders, num_coefficients
from fairchem_hdgnn.models.so3.wigner import wigner_d

METHODS = {"so3": "SO(3): e3nn, Clebsch-Gordan", "so2": "SO(2): this package"}
QUANTITIES = {"forward": "forward, s", "training": "forward + backward, s", "memory": "peak memory, MiB"}


def rows_of_order(lmax: int, mmax: int, order: int) -> list[int]:
    """Positions, in storage order, of the coefficients of one order: degrees ``|order|..lmax``."""
    pairs = degrees_and_orders(lmax, mmax)
    return [pairs.index((l, order)) for l in range(abs(order), lmax + 1)]


class SO2Linear(nn.Module):
    """Every linear map that commutes with turns about the edge: one complex matrix per order.

    ``y_m + i y_-m = (w_m + i w_-m) (x_m + i x_-m)``; the matrices run over (degree, channel). With ``mmax = lmax`` and
    weights shared between edges it spans the same maps as a fully connected Clebsch-Gordan product with the
    edge's harmonics of degrees up to ``2 lmax``.

    Args:
        lmax: largest degree.
        mmax: largest order; the output has the same rows as the input.
        channels_in: channels of the input.
        channels_out: channels of the output.
    """

    def __init__(self, lmax: int, mmax: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.rows = [(rows_of_order(lmax, mmax, m), rows_of_order(lmax, mmax, -m)) for m in range(mmax + 1)]
        self.weight = nn.ParameterList()
        for order in range(mmax + 1):
            degrees = lmax + 1 - order
            bound = (degrees * channels_in) ** -0.5
            shape = (1 if order == 0 else 2, degrees * channels_in, degrees * channels_out)
            self.weight.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the map to coefficients in the edge frame, ``[edges, rows, channels]``."""
        y = x.new_empty(x.shape[0], x.shape[1], self.channels_out)
        for order, (weight, (plus, minus)) in enumerate(zip(self.weight, self.rows)):
            real = x[:, plus].flatten(1)
            shape = (x.shape[0], len(plus), self.channels_out)
            if order == 0:
                y[:, plus] = (real @ weight[0]).view(shape)
            else:
                imaginary = x[:, minus].flatten(1)
                y[:, plus] = (real @ weight[0] - imaginary @ weight[1]).view(shape)
                y[:, minus] = (imaginary @ weight[0] + real @ weight[1]).view(shape)
        return y


def prepare(method: str, lmax: int, edges: int, channels: int) -> tuple[Callable[[], torch.Tensor], list[torch.Tensor]]:
    """The convolution as a function without arguments, and what it is differentiated with respect to."""
    torch.manual_seed(0)
    edge_vec = torch.randn(edges, 3)
    if method == "so3":
        irreps = o3.Irreps([(channels, (l, (-1) ** l)) for l in range(lmax + 1)])
        harmonics = o3.Irreps.spherical_harmonics(lmax)
        y = o3.spherical_harmonics(harmonics, edge_vec, normalize=True, normalization="component")
        product: nn.Module = o3.FullyConnectedTensorProduct(irreps, harmonics, irreps)
        x = irreps.randn(edges, -1).requires_grad_()
        return lambda: product(x, y), [x, *product.parameters()]
    rows = wigner_d(edge_frames(edge_vec), lmax, lmax)
    linear = SO2Linear(lmax, lmax, channels, channels)
    x = torch.randn(edges, num_coefficients(lmax), channels, requires_grad=True)
    return lambda: rows.mT @ linear(rows @ x), [x, *linear.parameters()]


def training(convolve: Callable[[], torch.Tensor], leaves: list[torch.Tensor]) -> None:
    """Forward and backward."""
    torch.autograd.grad(convolve().square().sum(), leaves, allow_unused=True)


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(method: str, lmax: int, memory: bool, args: argparse.Namespace) -> dict[str, float]:
    """Median times, or the peak memory, of one convolution; for a process of its own."""
    convolve, leaves = prepare(method, lmax, args.edges, args.channels)
    # TorchScript, which e3nn uses, optimises during the first calls.
    for _ in range(4):
        training(convolve, leaves)
    if memory:
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_kib()
        training(convolve, leaves)
        return {"memory": (resident_kib("VmHWM") - before) / 1024}
    with torch.no_grad():
        convolve()
        forward = statistics.median(seconds(convolve) for _ in range(args.repeats))
    return {
        "forward": forward,
        "training": statistics.median(seconds(lambda: training(convolve, leaves)) for _ in range(args.repeats)),
    }


def in_own_process(method: str, lmax: int, memory: bool, args: argparse.Namespace) -> dict[str, float]:
    """:func:`measure`; for the memory, blocks are handed back to the system at once and so count only while in use."""
    sizes = [f"--{name}={getattr(args, name)}" for name in ("edges", "channels", "repeats", "threads")]
    command = [sys.executable, __file__, *sizes, "--single", method, str(lmax), "memory" if memory else "time"]
    handed_back = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment = {**os.environ, **(handed_back if memory else {})}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def exponent(degrees: list[int], values: list[float]) -> float:
    """p of ``a L^p``, least squares in the logarithms over the upper half of the degrees."""
    upper = slice(len(degrees) // 2, None)
    return float(np.polyfit(np.log(degrees[upper]), np.log(values[upper]), 1)[0])


def draw(path: Path, degrees: list[int], results: dict[str, list[dict[str, float]]]) -> None:
    """One panel for each quantity, logarithmic axes."""
    with style():
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        axes = figure.subplots(1, len(QUANTITIES))
        for axis, (quantity, label) in zip(axes, QUANTITIES.items()):
            for position, (method, name) in enumerate(METHODS.items()):
                values = [row[quantity] for row in results[method]]
                power = exponent(degrees, values)
                axis.loglog(degrees, values, "o-", color=colour(position), label=name)
                axis.annotate(f"$L^{{{power:.1f}}}$", (degrees[-1], values[-1]), fontsize=8, ha="right")
            axis.set(xlabel="largest degree L", ylabel=label, xticks=degrees)
            axis.set_xticklabels([str(l) for l in degrees])
            axis.minorticks_off()
            light_grid(axis)
        axes[0].legend(fontsize=8)
        save(figure, path)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, default=8, help="largest of the degrees 1, 2, ...")
    parser.add_argument("--edges", type=int, default=1024)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="file of the figure")
    parser.add_argument("--single", nargs=3, metavar=("METHOD", "L", "WHAT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.single:
        method, lmax, what = args.single
        print(json.dumps(measure(method, int(lmax), what == "memory", args)))
        return
    degrees = list(range(1, args.lmax + 1))
    results: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    for lmax, method in tqdm([(l, method) for l in degrees for method in METHODS], disable=None):
        times, memory = (in_own_process(method, lmax, what, args) for what in (False, True))
        results[method].append({**times, **memory})
    print(f"{args.edges} edges, {args.channels} channels, {args.threads} threads, medians of {args.repeats}")
    for quantity, label in QUANTITIES.items():
        print(f"\n{label:24s}" + "".join(f"{f'L={l}':>9}" for l in degrees) + "  exponent")
        for method in METHODS:
            values = [row[quantity] for row in results[method]]
            print(
                f"{method:24s}" + "".join(f"{value:9.4g}" for value in values) + f"  {exponent(degrees, values):8.2f}"
            )
    if args.out:
        draw(args.out, degrees, results)


if __name__ == "__main__":
    main()
