"""Size of the signals at initialisation: ``python benchmarks/signal_path.py``.

One slab (64 Cu atoms with CO, 2,640 edges within 8 Å), one forward pass of untrained networks. For each
layer: the second moment of the embedding x and of the summed messages by degree, and the share of x's scalars that
differs between atoms of one element, which is all that the readout can learn from. Writes the figure and the table of
docs/training.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pages import put_into
from slabs import CUTOFF, MAX_NEIGHBORS, batch_with_edges, slab
from torch import Tensor, nn
from tqdm import tqdm

from fairchem_hdgnn import ESCN, HDGNN
from fairchem_hdgnn.data.neighbor_lists import NeighborList
from fairchem_hdgnn.evaluation.plot_style import colour, light_grid, save, style
from fairchem_hdgnn.models.so3.layout import degree_index

PAGE = Path(__file__).parents[1] / "docs/training.md"
FIGURE = PAGE.parent / "figures/signal_path.png"

SIZES: dict[str, Any] = {
    "sphere_channels": 64, "hidden_channels": 128, "edge_channels": 64, "cutoff": CUTOFF,
    "max_neighbors": MAX_NEIGHBORS, "regress_forces": False, "otf_graph": False,
}  # fmt: skip
HDGNN_SIZES = {**SIZES, "invariant_channels": 64, "mean_neighbors": 40.0}
ESCN_SIZES = {**SIZES, "mmax": 2, "basis_width": 2.0, "mean_neighbors": 40.0}
NETWORKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "HDGNN, paper": (HDGNN, {**HDGNN_SIZES, "preset": "paper"}),
    "HDGNN, paper, fully_tp": (HDGNN, {**HDGNN_SIZES, "preset": "paper", "message": "fully_tp"}),
    "HDGNN, authors": (HDGNN, {**HDGNN_SIZES, "preset": "authors"}),
    "eSCN": (ESCN, ESCN_SIZES),
}
STARTS = ("torch", "unit_variance")
DEGREES, DEPTHS = (2, 6), (2, 8, 16)


@dataclass(frozen=True)
class Signal:
    """One layer.

    Attributes:
        message: second moment of the summed messages, by degree.
        x: the same of the embedding that leaves the layer.
        differs: of the scalars of x: variance over the atoms of the most frequent element / second moment.
    """

    message: list[float]
    x: list[float]
    differs: float


@torch.no_grad()
def measure(model: nn.Module, batch: Any) -> list[Signal]:
    """Each layer of a fairchem model of this package, in a forward pass of ``batch``."""
    network: Any = model.network
    degrees = degree_index(network.config.lmax)
    numbers = batch.atomic_numbers
    frequent = numbers == numbers.mode().values
    messages: list[list[float]] = []
    signals: list[Signal] = []

    def see_message(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        messages.append(by_degree(inputs[1], degrees))

    def see_x(module: nn.Module, inputs: Any, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        scalars = x[frequent, 0].double()
        differs = (scalars - scalars.mean(0)).square().mean() / scalars.square().mean()
        signals.append(Signal(messages[-1], by_degree(x, degrees), float(differs)))

    hooks = []
    for layer in network.backbone.layers:
        hooks += [layer.update.register_forward_pre_hook(see_message), layer.register_forward_hook(see_x)]
    try:
        model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return signals


def by_degree(x: Tensor, degrees: Tensor) -> list[float]:
    """Second moment of coefficients, over atoms, orders and channels."""
    squares = x.double().square().mean(dim=(0, 2))
    return [float(squares[degrees == degree].mean()) for degree in range(int(degrees.max()) + 1)]


def all_signals() -> Iterator[tuple[str, str, int, int, list[Signal]]]:
    """Name, start, L, K and what was measured."""
    batch = batch_with_edges([slab((4, 4, 4))], NeighborList.PAIRS)
    cases = [(name, start, lmax, k) for name in NETWORKS for lmax in DEGREES for k in DEPTHS for start in STARTS]
    for name, start, lmax, k in tqdm(cases, unit="network"):
        kind, keys = NETWORKS[name]
        torch.manual_seed(0)
        model = kind(**{**keys, "lmax": lmax, "num_layers": k, "weight_init": start}).eval()
        yield name, start, lmax, k, measure(model, batch)


def table(results: list[tuple[str, str, int, int, list[Signal]]]) -> str:
    """As Markdown: a row for each network, with both starts."""
    lines = [
        "| network | L | K | differs, layer 1 | differs, layer K | messages, l = 0 | messages, l = L | x, l = 0 "
        "| x, l = L |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    values: dict[tuple[str, int, int], list[list[float]]] = {}
    for name, _, lmax, k, signals in results:
        last = signals[-1]
        measured = [signals[0].differs, last.differs, last.message[0], last.message[-1], last.x[0], last.x[-1]]
        values.setdefault((name, lmax, k), []).append(measured)
    for (name, lmax, k), starts in values.items():
        cells = [" → ".join(f"{value:.0e}" for value in column) for column in zip(*starts)]
        lines.append(f"| {name} | {lmax} | {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(results: list[tuple[str, str, int, int, list[Signal]]]) -> None:
    """What differs between atoms of one element against the layer, of the deepest networks."""
    with style():
        figure = Figure(figsize=(9, 3.4))
        axes = figure.subplots(1, len(DEGREES), sharey=True)
        for position, lmax in enumerate(DEGREES):
            for name, start, degree, k, signals in results:
                if degree == lmax and k == max(DEPTHS):
                    share = [signal.differs for signal in signals]
                    line = "-" if start == "unit_variance" else ":"
                    own = colour(list(NETWORKS).index(name))
                    axes[position].semilogy(range(1, k + 1), share, line, color=own, label=f"{name}, {start}")
            axes[position].set(title=f"L = {lmax}", xlabel="layer")
            light_grid(axes[position])
        axes[0].set_ylabel("share of x (l = 0) that differs\nbetween atoms of one element")
        axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
        save(figure, FIGURE)


def main() -> None:
    """Measure, draw, and put the table into the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = list(all_signals())
    plot(results)
    put_into(PAGE, "signal_path", table(results))


if __name__ == "__main__":
    main()
