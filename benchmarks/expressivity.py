"""Which n-fold environments a single layer can distinguish (Joshi et al., ICML 2023), for HDGNN and for METP alone.

A central atom with n atoms on a unit circle, and the same rotated by less than 2 pi / n. A layer with strictly
equivariant features of degree L can distinguish the two only for n <= L. Run with
``python benchmarks/expressivity.py``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from fairchem_hdgnn.evaluation.plot_style import COLOURS, light_grid, save, style
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig
from fairchem_hdgnn.models.hdgnn.network import Backbone
from fairchem_hdgnn.models.seeds import step_seed
from fairchem_hdgnn.models.so3.frames import edge_frames, random_roll
from fairchem_hdgnn.models.so3.grid import S2Grid
from fairchem_hdgnn.models.so3.layout import num_coefficients

FOLDS = (2, 3, 5, 10)
DEGREES = (1, 2, 3, 5, 10)
WIDTHS: dict[str, Any] = {
    "num_layers": 1,
    "sphere_channels": 4,
    "hidden_channels": 16,
    "edge_channels": 16,
    "invariant_channels": 16,
    "cutoff": 2.0,
    "max_num_elements": 2,
    "implementation": "reference",
}


@dataclass(frozen=True)
class Model:
    """A row of the table.

    Attributes:
        name: of the row.
        attention: of eq. 11: learned, or METP's term alone.
        random_frames: a fresh roll for every edge and forward, in training and in the test; otherwise none.
        min_latitudes: of the update's grid; the model's own has ``2 (L + 1)``.
    """

    name: str
    attention: str | list[float]
    random_frames: bool
    min_latitudes: int = 0


MODELS = (
    Model("METP only", [0.0, 0.0, 0.0, 1.0], random_frames=False),
    Model("METP only, fine grid", [0.0, 0.0, 0.0, 1.0], random_frames=False, min_latitudes=28),
    Model("HDGNN, fixed frames", "sigmoid", random_frames=False),
    Model("HDGNN, random frames", "sigmoid", random_frames=True),
)


class Classifier(nn.Module):
    """One layer, node embeddings summed over each graph, a two-layer network on all their coefficients."""

    def __init__(self, model: Model, lmax: int) -> None:
        super().__init__()
        keys = {**WIDTHS, "lmax": lmax, "lmax_metp": lmax, "attention": model.attention, "weight_init": "torch"}
        self.backbone = Backbone(HDGNNConfig.from_keys(keys))
        if model.min_latitudes > 2 * (lmax + 1):
            resolution = (model.min_latitudes, model.min_latitudes + 1)
            layer: Any = self.backbone.layers[0]
            layer.update.grid = S2Grid(lmax, resolution=resolution)
        width = num_coefficients(lmax) * WIDTHS["sphere_channels"]
        self.head = nn.Sequential(nn.Linear(width, 32), nn.SiLU(), nn.Linear(32, 2))

    def forward(
        self, edge_index: Int[Tensor, "2 edges"], edge_vec: Float[Tensor, "edges 3"], frames: Float[Tensor, "edges 3 3"]
    ) -> tuple[Float[Tensor, "two classes"], Float[Tensor, "two features"]]:
        """Logits and summed node embeddings of the two environments."""
        num_nodes = int(edge_index.max()) + 1
        x, _ = self.backbone(torch.ones(num_nodes, dtype=torch.long), edge_index, edge_vec, frames)
        pooled = x.view(2, num_nodes // 2, -1).sum(1)
        return self.head(pooled), pooled


def environments(fold: int, seed: int) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
    """Both environments as one graph: centre <-> spokes."""
    turn = 2 * math.pi / (fold + random.Random(seed).randint(1, fold))
    spoke = torch.arange(1, fold + 1)
    indices, vectors = [], []
    for environment, offset in enumerate((0.0, turn)):
        angle = 2 * math.pi * (spoke - 1) / fold + offset
        direction = torch.stack([angle.cos(), angle.sin(), torch.zeros(fold)], -1)
        first = environment * (fold + 1)
        centre = torch.full_like(spoke, first)
        indices.append(torch.stack([torch.cat([first + spoke, centre]), torch.cat([centre, first + spoke])]))
        vectors.append(torch.cat([direction, -direction]))
    return torch.cat(indices, 1), torch.cat(vectors)


@dataclass(frozen=True)
class Outcome:
    """One cell of the table, over seeds.

    Attributes:
        accuracy: mean test accuracy, %.
        spread: its standard deviation over seeds, %.
        gap: mean over seeds of ``|p_0 - p_1| / |p_0|``, p the summed embedding of an environment before training.
    """

    accuracy: float
    spread: float
    gap: float


def run(model: Model, fold: int, lmax: int, num_seeds: int, epochs: int, learning_rate: float) -> Outcome:
    """Train ``num_seeds`` classifiers at once (independent weights, optimiser states and angles) and test them."""
    classifiers = []
    for seed in range(num_seeds):
        torch.manual_seed(seed)
        classifiers.append(Classifier(model, lmax))
    parameters, _ = stack_module_state(classifiers)
    edge_index = environments(fold, 0)[0]
    edge_vec = torch.stack([environments(fold, seed)[1] for seed in range(num_seeds)])
    draws = itertools.count()

    def frames() -> Tensor:
        flat = edge_vec.flatten(0, 1)
        roll = random_roll(len(flat), step_seed("frames", 0, next(draws)), flat) if model.random_frames else None
        return edge_frames(flat, roll).view(*edge_vec.shape, 3)

    def evaluate(weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        def single(weights: dict[str, Tensor], vectors: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
            return functional_call(classifiers[0], weights, (edge_index, vectors, frames))

        return vmap(single)(weights, edge_vec, frames())

    with torch.no_grad():
        classifiers[0](edge_index, edge_vec[0], frames()[0])  # makes constants, which vmap does not allow
        pooled = evaluate(parameters)[1]
        gap = (pooled[:, 0] - pooled[:, 1]).norm(dim=-1) / pooled[:, 0].norm(dim=-1)
    weights = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    labels = torch.tensor([0, 1])
    optimiser = torch.optim.Adam(weights.values(), lr=learning_rate)
    for _ in range(epochs):
        optimiser.zero_grad()
        logits = evaluate(weights)[0]
        cross_entropy(logits.flatten(0, 1), labels.repeat(num_seeds), reduction="sum").backward()
        optimiser.step()
    with torch.no_grad():
        hits = [evaluate(weights)[0].argmax(-1) == labels for _ in range(20 if model.random_frames else 1)]
    accuracy = 100 * torch.stack(hits).double().mean((0, 2))
    return Outcome(float(accuracy.mean()), float(accuracy.std(correction=0)), float(gap.mean()))


def run_cell(cell: tuple[Model, int, int], num_seeds: int, epochs: int, learning_rate: float) -> Outcome:
    """One cell of the table: model, L and fold."""
    model, lmax, fold = cell
    return run(model, fold, lmax, num_seeds, epochs, learning_rate)


def main() -> None:
    """Run every cell, print the tables, write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folds", type=int, nargs="+", default=FOLDS)
    parser.add_argument("--degrees", type=int, nargs="+", default=DEGREES)
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/expressivity.png"))
    parser.add_argument("--json", type=Path, help="also write every number there")
    args = parser.parse_args()
    cells = [(model, lmax, fold) for model in MODELS for lmax in args.degrees for fold in args.folds]
    work = partial(run_cell, num_seeds=args.seeds, epochs=args.epochs, learning_rate=args.lr)
    context = multiprocessing.get_context("spawn")
    # One thread each: the matrices are small.
    with ProcessPoolExecutor(args.processes, context, torch.set_num_threads, (1,)) as pool:
        results = list(tqdm(pool.map(work, cells), total=len(cells), unit="cell"))
    outcomes = {(model.name, lmax, fold): outcome for (model, lmax, fold), outcome in zip(cells, results)}
    for model in MODELS:
        print(f"\n{model.name}: test accuracy, %, mean ± spread of {args.seeds} seeds; gap before training\n")
        print("| L |" + "".join(f" n = {fold} |" for fold in args.folds))
        print("| ---: |" + " ---: |" * len(args.folds))
        for lmax in args.degrees:
            row = [outcomes[model.name, lmax, fold] for fold in args.folds]
            print(f"| {lmax} |" + "".join(f" {o.accuracy:.0f} ± {o.spread:.0f} ({o.gap:.0e}) |" for o in row))
    if args.json is not None:
        content = [{"model": m, "lmax": l, "fold": n, **asdict(o)} for (m, l, n), o in outcomes.items()]
        with complete_or_absent(args.json) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nWritten: {draw(outcomes, args.folds, args.degrees, args.figure)}")


def draw(outcomes: dict[tuple[str, int, int], Outcome], folds: list[int], degrees: list[int], path: Path) -> Path:
    """Accuracy against L, one panel for each fold."""
    with style():
        figure = Figure(figsize=(2.6 * len(folds), 2.8), layout="constrained")
        panels = figure.subplots(1, len(folds), sharey=True, squeeze=False)[0]
        position = range(len(degrees))
        for fold, axes in zip(folds, panels):
            for index, model in enumerate(MODELS):
                row = [outcomes[model.name, lmax, fold] for lmax in degrees]
                axes.errorbar(
                    [p + 0.08 * (index - 1.5) for p in position], [o.accuracy for o in row],
                    yerr=[o.spread for o in row], color=COLOURS[index], marker="o", markersize=4, linewidth=1,
                    label=model.name,
                )  # fmt: skip
            axes.set(title=f"n = {fold}", xlabel="L", xticks=list(position), xticklabels=degrees)
            light_grid(axes, "y")
        panels[0].set(ylabel="test accuracy, %", ylim=(-5, 105))
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(MODELS))
        return save(figure, path)


if __name__ == "__main__":
    main()
