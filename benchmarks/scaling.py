"""How time and memory grow with degree, atoms and batch: ``python benchmarks/scaling.py --out docs/figures/scaling``.

Copper slabs with CO, 8 Å, 40 neighbours for each atom; HDGNN (``authors``, one resolution) and eSCN (M = 2), one
layer. Three sweeps: L from 1 to 8 at C = 128; 30 to 5,000 atoms at L = 4, C = 32; batches of 1 to 64 slabs of 30
atoms at the same size. Times are medians of forward passes without the neighbour search, which is done once per
training step and timed separately (``pairs``, ``vesin`` and ``fairchem``). fairchem's own search, which the models do
not use, needs memory for all pairs of atoms and is left out beyond 1,500 atoms. Exponents are least-squares slopes of
log time.
Writes OUT.json and OUT.png.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairchem.core.common.utils import radius_graph_pbc
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from slabs import CUTOFF, MAX_NEIGHBORS, batch_with_edges, slab
from tqdm import tqdm

import fairchem_hdgnn
from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search, periodic_edges
from fairchem_hdgnn.host.allocator import keep_freed_memory

MOST_ATOMS_OF_FAIRCHEM = 1500
LINES = {
    "HDGNN": "HDGNN, forward",
    "eSCN": "eSCN, forward",
    "fairchem": "edges, fairchem",
    "pairs": "edges, pairs",
    "vesin": "edges, vesin",
}
GRAPH = {"cutoff": CUTOFF, "max_neighbors": MAX_NEIGHBORS, "use_pbc": True, "otf_graph": False, "num_layers": 1}
SLABS = {30: (3, 3, 3), 66: (4, 4, 4), 146: (6, 6, 4), 290: (9, 8, 4), 1002: (20, 10, 5), 5002: (40, 25, 5)}
"""Atoms -> repetitions of the slab; CO has two more."""


def with_edges(records: list[Any]) -> tuple[Any, dict[str, float]]:
    """A batch with its edges, and the seconds that finding them takes."""
    batch = batch_with_edges(records, NeighborList.VESIN)
    found = {}
    for kind in NeighborList:
        search = Search(CUTOFF, MAX_NEIGHBORS, neighbor_list=kind)
        found[kind.value] = seconds(partial(periodic_edges, batch, search), repeats=3)
    if len(batch.pos) <= MOST_ATOMS_OF_FAIRCHEM * len(records):
        found["fairchem"] = seconds(partial(radius_graph_pbc, batch, CUTOFF, MAX_NEIGHBORS, True), repeats=3)
    return batch, found


def models(lmax: int, channels: int) -> dict[str, torch.nn.Module]:
    """Both models at one size."""
    sizes = {**GRAPH, "lmax": lmax, "sphere_channels": channels, "hidden_channels": 4 * channels}
    hdgnn = {**sizes, "preset": "authors", "num_resolutions": 1, "lmax_metp": min(2, lmax)}
    escn = {**sizes, "hidden_channels": 2 * channels, "mmax": min(2, lmax), "regress_forces": False}
    return {
        "HDGNN": fairchem_hdgnn.HDGNN(**hdgnn, regress_forces=False).eval(),
        "eSCN": fairchem_hdgnn.ESCN(**escn).eval(),
    }


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median time after one call to warm up."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


@torch.no_grad()
def measure(batch: Any, lmax: int, channels: int, repeats: int) -> dict[str, float]:
    """Seconds of a forward pass by model."""
    return {name: seconds(partial(model, batch), repeats) for name, model in models(lmax, channels).items()}


def sweeps(repeats: int, most_atoms: int) -> dict[str, list[dict[str, float]]]:
    """All measurements."""
    sizes = [atoms for atoms in SLABS if atoms <= most_atoms]
    batches = [1, 2, 4, 8, 16, 32, 64]
    result: dict[str, list[dict[str, float]]] = {"lmax": [], "atoms": [], "batch": []}
    with tqdm(total=8 + len(sizes) + len(batches), unit="size") as bar:
        batch, _ = with_edges([slab(SLABS[66])])
        for lmax in range(1, 9):
            result["lmax"].append({"lmax": lmax, **measure(batch, lmax, 128, repeats)})
            bar.update()
        for atoms in sizes:
            batch, graph = with_edges([slab(SLABS[atoms])])
            row = {"atoms": atoms, "edges": batch.edge_index.shape[1], **graph}
            result["atoms"].append({**row, **measure(batch, 4, 32, repeats)})
            bar.update()
        for count in batches:
            batch, graph = with_edges([slab(SLABS[30])] * count)
            row = {"batch": count, "edges": batch.edge_index.shape[1], **graph}
            result["batch"].append({**row, **measure(batch, 4, 32, repeats)})
            bar.update()
    return result


def exponent(rows: list[dict[str, float]], variable: str, column: str, at_least: float) -> float:
    """Slope of log time over the log of a variable, from some value on."""
    used = [row for row in rows if row[variable] >= at_least]
    x, y = (np.log([row[key] for row in used]) for key in (variable, column))
    return float(np.polyfit(x, y, 1)[0])


def draw(result: dict[str, list[dict[str, float]]], path: Path) -> None:
    """One panel for each sweep."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = {"lmax": "largest degree L", "atoms": "atoms", "batch": "systems in a batch"}
    for axes, (sweep, rows) in zip(panels, result.items()):
        x = [row[sweep] for row in rows]
        for name, label in LINES.items():
            if name in rows[0]:
                values = [row.get(name, np.nan) for row in rows]
                axes.loglog(x, values, "--" if "edges" in label else "-", marker="o", markersize=3, label=label)
        axes.set_xlabel(labels[sweep])
        axes.set_xticks(x, [f"{value:,}" for value in x], minor=False)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if sweep == "lmax" else LogLocator())
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("s")
    panels[1].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--most-atoms", type=int, default=max(SLABS))
    parser.add_argument("--out", type=Path, default=Path("scaling"), help="without suffix")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    result = sweeps(args.repeats, args.most_atoms)
    exponents = {
        f"{name} ~ {sweep}^p": exponent(result[sweep], sweep, name, at_least)
        for name in ("HDGNN", "eSCN")
        for sweep, at_least in (("lmax", 3), ("atoms", 100), ("batch", 4))
    }
    for sweep, rows in result.items():
        print(sweep)
        for row in rows:
            print("  " + "  ".join(f"{key} {value:g}" for key, value in row.items()))
    for name, value in exponents.items():
        print(f"{name}: p = {value:.2f}")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    draw(result, args.out.with_suffix(".png"))
    args.out.with_suffix(".json").write_text(json.dumps({**result, "exponents": exponents}, indent=1) + "\n")


if __name__ == "__main__":
    main()
