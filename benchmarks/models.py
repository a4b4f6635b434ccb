"""Speed and memory of several models: ``python benchmarks/models.py``.

One system, a periodic slab of 64 copper atoms with CO (66 atoms), cutoff 8 Å, 40 neighbours: 2,640 edges, found once
and shared. Every model predicts its energy with ``--layers`` layers; spherical models have L = 6 and C = 128. The
other hyper-parameters are those of fairchem's configs for OC20. All models of one depth alternate in one process; times
are medians over the rounds. With several depths, it also prints the cost of each further layer: in our models, the
first layer sees only l = 0 and is cheaper than the others, so two-layer numbers are too favourable. The peak memory of
a training step is measured in a separate process: growth of the resident set (Linux's VmHWM) over the state with
weights and inputs in memory. ``GFLOP`` counts executed matrix products, two operations per multiply-add.

If the machine also runs other programs, use ``chrt -f 50`` so that they do not interrupt a measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from process_memory import resident_kib
from rich.console import Console
from rich.table import Table
from slabs import CUTOFF, MAX_NEIGHBORS, batch_with_edges, slab
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

from fairchem_hdgnn.data.neighbor_lists import NeighborList
from fairchem_hdgnn.host.allocator import keep_freed_memory

BASELINE = "escn"
Rows = dict[str, dict[str, float]]
COMMON = {"otf_graph": False, "regress_forces": False, "use_pbc": True}
GRAPH = {**COMMON, "cutoff": CUTOFF, "max_neighbors": MAX_NEIGHBORS}
HDGNN = {**GRAPH, "name": "fairchem_hdgnn.HDGNN", "preset": "authors", "num_resolutions": 1, "num_layers": 2}
ESCN = {**GRAPH, "name": "fairchem_hdgnn.ESCN", "num_layers": 2, "lmax": 6, "mmax": 2}
GEMNET_SIZES = {
    "num_spherical": 7, "num_radial": 128, "emb_size_atom": 256, "emb_size_edge": 512, "emb_size_rbf": 16,
    "emb_size_trip_in": 64, "emb_size_trip_out": 64, "emb_size_quad_in": 32, "emb_size_quad_out": 32,
    "emb_size_aint_in": 64, "emb_size_aint_out": 64, "emb_size_cbf": 16, "emb_size_sbf": 32, "num_before_skip": 2,
    "num_after_skip": 2, "num_concat": 1, "num_atom": 3, "num_output_afteratom": 3, "num_atom_emb_layers": 2,
    "num_global_out_layers": 2,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "hdgnn": HDGNN,
    "hdgnn-bf16": HDGNN,
    "hdgnn-recompute": {**HDGNN, "activations": "recompute"},
    "hdgnn-reference": {**HDGNN, "implementation": "reference"},
    "escn_so2": ESCN,
    "escn_so2-bf16": ESCN,
    "escn_so2-store": {**ESCN, "activations": "store"},
    "escn_so2-reference": {**ESCN, "implementation": "reference"},
    "escn": {**GRAPH, "name": "escn", "num_layers": 2, "lmax_list": [6], "mmax_list": [2], "basis_width_scalar": 2.0},
    "scn": {
        **COMMON, "name": "scn", "cutoff": CUTOFF, "max_num_neighbors": MAX_NEIGHBORS, "num_interactions": 2,
        "lmax": 6, "mmax": 1, "sphere_channels": 128, "sphere_channels_reduce": 128, "hidden_channels": 1024,
        "num_bands": 1, "num_taps": 1, "use_grid": True, "basis_width_scalar": 2.0,
    },
    "equiformer_v2": {
        **COMMON, "name": "equiformer_v2", "max_radius": CUTOFF, "max_neighbors": MAX_NEIGHBORS, "num_layers": 2,
        "lmax_list": [6], "mmax_list": [2], "grid_resolution": 18, "sphere_channels": 128, "attn_hidden_channels": 64,
        "num_heads": 8, "attn_alpha_channels": 64, "attn_value_channels": 16, "ffn_hidden_channels": 128,
    },
    "gemnet_oc": {
        **GRAPH, **GEMNET_SIZES, "name": "gemnet_oc", "num_blocks": 2, "cutoff_qint": CUTOFF, "cutoff_aeaint": CUTOFF,
        "cutoff_aint": CUTOFF, "max_neighbors_qint": 8, "max_neighbors_aeaint": 20, "max_neighbors_aint": 1000,
        "cbf": {"name": "spherical_harmonics"}, "sbf": {"name": "legendre_outer"}, "output_init": "HeOrthogonal",
        "quad_interaction": True, "atom_edge_interaction": True, "edge_atom_interaction": True,
        "atom_interaction": True, "direct_forces": True, "qint_tags": [1, 2],
    },
    "painn": {**GRAPH, "name": "painn", "num_layers": 2, "hidden_channels": 512},
}  # fmt: skip
"""What is measured: name -> keys of the model. A name that ends in ``-bf16`` runs under autocast in bfloat16."""

DEPTH_KEYS = ("num_layers", "num_interactions", "num_blocks")


def slab_batch() -> Any:
    """The system as a fairchem batch with its edges."""
    return batch_with_edges([slab((4, 4, 4))], NeighborList.PAIRS)


class Candidate:
    """A model ready to be measured.

    Args:
        name: a key of :data:`MODELS`.
        layers: how many.
        batch: what it predicts.
    """

    def __init__(self, name: str, layers: int, batch: Any) -> None:
        keys = {key: layers if key in DEPTH_KEYS else value for key, value in MODELS[name].items()}
        self.name, self.batch = name, batch
        self.bfloat16 = name.endswith("-bf16")
        torch.manual_seed(0)
        with quiet():
            self.model: nn.Module = registry.get_model_class(keys.pop("name"))(**keys)

    def forward(self) -> torch.Tensor:
        """The energy."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            return self.model(self.batch)["energy"]

    def predict(self) -> None:
        """A forward pass as in evaluation."""
        self.model.eval()
        with torch.no_grad():
            self.forward()

    def step(self) -> None:
        """Forward and backward pass; the optimiser, the same for all, is left out."""
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        self.forward().abs().sum().backward()

    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)


class _Arithmetic(TorchDispatchMode):
    """Counts the operations of matrix products; torch's own counter cannot follow nested backward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet in (torch.ops.aten.addmm_, torch.ops.aten.baddbmm_):
            self.total += 2 * args[1].numel() * args[2].shape[-1]
        elif packet is torch.ops.mkldnn._linear_pointwise:
            self.total += 2 * result.numel() * args[0].shape[-1]
        elif packet in flop_registry:
            self.total += flop_registry[packet](*args, **(kwargs or {}), out_val=result)
        return result


def gigaflops(work: Callable[[], None]) -> float:
    """Arithmetic of the matrix products in ``work``."""
    with _Arithmetic() as counter:
        work()
    return counter.total / 1e9


def seconds(work: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def matrix_product_peak() -> float:
    """GFLOP/s of a large float32 matrix product."""
    a, b = torch.randn(2640, 2432), torch.randn(2432, 512)
    out = torch.empty(2640, 512)
    return 2e-9 * 2640 * 2432 * 512 / min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(5))


def measure_times(names: list[str], layers: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median times and arithmetic of all models, which take turns, and the peak of matrix products in between."""
    batch = slab_batch()
    with quiet():
        candidates = [Candidate(name, layers, batch) for name in names]
        for candidate in candidates:
            candidate.step()
        forward: dict[str, list[float]] = {name: [] for name in names}
        step: dict[str, list[float]] = {name: [] for name in names}
        peaks = []
        for _ in tqdm(range(repeats), desc="turns", disable=None):
            peaks.append(matrix_product_peak())
            for candidate in candidates:
                forward[candidate.name].append(seconds(candidate.predict))
                step[candidate.name].append(seconds(candidate.step))
        return {
            candidate.name: {
                "parameters": candidate.parameters(),
                "forward_s": statistics.median(forward[candidate.name]),
                "step_s": statistics.median(step[candidate.name]),
                "forward_gflop": gigaflops(candidate.predict),
                "step_gflop": gigaflops(candidate.step),
                "peak_gflops": statistics.median(peaks),
            }
            for candidate in candidates
        }


def measure_memory(name: str, layers: int) -> float:
    """Growth of the resident set by one training step, MiB; for a process of its own."""
    candidate = Candidate(name, layers, slab_batch())
    with quiet():
        # Libraries load and keep their buffers at the first call.
        candidate.step()
        candidate.model.zero_grad(set_to_none=True)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident_kib()
        candidate.step()
    return (resident_kib("VmHWM") - before) / 1024


def memory_in_own_process(name: str, layers: int, threads: int) -> float:
    """:func:`measure_memory` with large blocks handed back to the system at once, so that they count while in use."""
    command = [sys.executable, __file__, "--memory-of", name, "--layers", str(layers), "--threads", str(threads)]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without fairchem's log lines and torch's warnings."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def table(rows: dict[str, dict[str, float]]) -> list[list[str]]:
    """Head and rows of the result, ratios to fairchem's eSCN in brackets."""
    head = ["model", "parameters", "forward, ms", "training step, ms", "peak memory of a step, MiB"]
    lines = [[*head, "forward, GFLOP", "forward, GFLOP/s", "step, GFLOP/s"]]
    base = rows.get(BASELINE)

    def with_ratio(value: float, key: str, scale: float = 1.0) -> str:
        return f"{value * scale:,.0f}" + (f" ({value / base[key]:.2f})" if base else "")

    for name, row in rows.items():
        lines.append(
            [
                name,
                f"{row['parameters'] / 1e6:.1f} M",
                with_ratio(row["forward_s"], "forward_s", 1e3),
                with_ratio(row["step_s"], "step_s", 1e3),
                with_ratio(row["memory_mib"], "memory_mib"),
                f"{row['forward_gflop']:.1f}",
                f"{row['forward_gflop'] / row['forward_s']:.0f}",
                f"{row['step_gflop'] / row['step_s']:.0f}",
            ]
        )
    return lines


def further_layer(shallow: Rows, deep: Rows, layers: int) -> Rows:
    """What each of so many more layers costs."""
    return {
        name: {key: (deep[name][key] - value) / layers for key, value in row.items() if key != "peak_gflops"}
        for name, row in shallow.items()
    }


def write(out: Path, tables: dict[str, Rows], note: str) -> None:
    """JSON, or Markdown tables for any other suffix."""
    if out.suffix == ".json":
        out.write_text(json.dumps({"note": note, **tables}, indent=1) + "\n")
        return
    text = []
    for title, rows in tables.items():
        head, *lines = table(rows)
        divider = ["---"] + ["---:"] * (len(head) - 1)
        text += [f"{title}:", "", *("| " + " | ".join(line) + " |" for line in (head, divider, *lines)), ""]
    out.write_text("\n".join([*text, note, ""]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), metavar="NAME")
    parser.add_argument("--layers", type=int, nargs="+", default=[2], metavar="K")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, nargs="*", default=[], help="files to write: .json, or Markdown")
    parser.add_argument("--memory-of", choices=list(MODELS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with quiet():
        setup_imports()
    if args.memory_of:
        print(measure_memory(args.memory_of, args.layers[0]))
        return
    keep_freed_memory()
    tables: dict[str, Rows] = {}
    for layers in args.layers:
        rows = measure_times(args.models, layers, args.repeats)
        for name in tqdm(args.models, desc="memory", disable=None):
            rows[name]["memory_mib"] = memory_in_own_process(name, layers, args.threads)
        tables[f"{layers} layers"] = rows
    measured = list(zip(args.layers, list(tables.values())))
    for (few, shallow), (many, deep) in zip(measured, measured[1:]):
        tables[f"a further layer, from {few} to {many}"] = further_layer(shallow, deep, many - few)
    peak = statistics.median(row["peak_gflops"] for _, rows in measured for row in rows.values())
    note = (
        f"Medians of {args.repeats}, {args.threads} threads, torch {torch.__version__}; a float32 matrix product "
        f"[2640, 2432] x [2432, 512] reaches {peak:.0f} GFLOP/s. In brackets: in units of fairchem's {BASELINE}."
    )
    for title, rows in tables.items():
        head, *lines = table(rows)
        shown = Table(*head, title=title)
        for line in lines:
            shown.add_row(*line)
        Console().print(shown)
    Console().print(note)
    for out in args.out:
        write(out, tables, note)


if __name__ == "__main__":
    main()
