"""HDGNN's variants, eSCN, PaiNN and SchNet at equal epochs: ``python benchmarks/evidence.py STUDY DATA OUT --hours H``.

``hea``: adsorption energies on alloys, 3,951 structures, 12 epochs; DATA is hea_adsorption.npz (hea_data.py).
``qm9``: the gap of 10,000 molecules, 10 epochs; DATA is what ``fairchem-hdgnn prepare-qm9`` wrote. Three seeds each,
one thread per run. All models use the optimizer, learning rate, schedule and epochs of configs/oc20/is2re/small, which
were chosen for HDGNN. A call works for H hours; call it again to continue. Runs are ordered by seed, so that the table
fills evenly.

Writes the table and the learning curves of docs/evidence.md, and benchmarks/results/evidence_STUDY.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hea_data import convert
from kept_results import KeptResults
from long_runs import LongRun, add_arguments, continue_runs, schedule
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from pages import of_seeds, put_into

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.evaluation.plot_style import COLOURS, colour, light_grid, save, style
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS, title_of

ROOT = Path(__file__).parents[1]
CONFIG = "hdgnn:oc20/is2re/small/hdgnn.yml"
PAGE = ROOT / "docs/evidence.md"
SEEDS = (0, 1, 2)
SIZES = {"lmax": 2, "num_layers": 2, "sphere_channels": 32, "hidden_channels": 64, "edge_channels": 64}
HDGNN = {"name": "fairchem_hdgnn.HDGNN", **SIZES, "lmax_metp": 2, "invariant_channels": 64, "preset": "paper"}
PRODUCT = {**HDGNN, "message": "fully_tp"}

MODELS: dict[str, dict[str, Any]] = {
    "HDGNN, tensor product alone": PRODUCT,
    "PaiNN": {"name": "painn", "num_layers": 4, "hidden_channels": 128, "num_rbf": 64},
    "SchNet": {
        "name": "schnet", "num_interactions": 4, "hidden_channels": 256, "num_filters": 128, "num_gaussians": 100,
    },
    "HDGNN": HDGNN,
    "eSCN": {"name": "fairchem_hdgnn.ESCN", **SIZES, "mmax": 2, "basis_width": 2.0},
    "HDGNN, fixed frames": {**HDGNN, "frames": "fixed"},
    "HDGNN, equivariant linear layers": {**HDGNN, "message": "linear"},
    "HDGNN, unrestricted network": {**HDGNN, "message": "unrestricted"},
    "HDGNN, authors": {**HDGNN, "preset": "authors"},
    "HDGNN, seeded frames": {**HDGNN, "frames": "seeded"},
    "HDGNN, tensor product alone, 4 layers": {**PRODUCT, "num_layers": 4},
    "HDGNN, rotated input": {**HDGNN, "neural_input": "rotated"},
    "HDGNN, tensor product alone, 64 channels": {**PRODUCT, "sphere_channels": 64},
}  # fmt: skip
"""In the order of training; PaiNN and SchNet are fairchem's, as in its configurations but for the widths
and PaiNN's scale factors, which are not fitted."""

GRAPH = {"cutoff": 5.0, "regress_forces": False}


@dataclass(frozen=True)
class Study:
    """Data and schedule; all else is configs/oc20/is2re/small.

    Attributes:
        epochs: of each run.
        train: structures to train on; all if absent.
        validation: split of the learning curve, and how many of it are taken; all if absent.
        tests: splits that are scored at the end.
        label: of the records.
        to_mev: from the unit of the label.
        batch_size: structures a step.
        graph: keys of all models.
        ours: further keys of this package's models.
        models: which are trained.
    """

    epochs: int
    train: int | None
    validation: tuple[str, int | None]
    tests: tuple[str, ...]
    label: str
    to_mev: float
    batch_size: int
    graph: Mapping[str, Any]
    ours: Mapping[str, Any]
    models: tuple[str, ...] = tuple(MODELS)


STUDIES = {
    "hea": Study(
        12, None, ("val_id", None), VALIDATION_SPLITS, "y_relaxed", 1000.0, 8,
        {**GRAPH, "use_pbc": True, "otf_graph": True, "max_neighbors": 12},
        {"energy_scale": 0.15, "mean_neighbors": 12.0, "distance_resolution": 0.05, "num_sphere_samples": 64},
    ),
    "qm9": Study(
        10, 10_000, ("val", 2000), ("test",), "gap", 1.0, 16,
        {**GRAPH, "use_pbc": False, "otf_graph": False, "max_neighbors": 30},
        {"energy_scale": 0.25, "mean_neighbors": 14.0, "distance_resolution": 0.05, "num_sphere_samples": 64},
        # SchNet ignores the edges of the records, and its own search needs pyg-lib.
        tuple(model for model in MODELS if model != "SchNet"),
    ),
}  # fmt: skip


def runs_of(study: Study, data: Path, out: Path) -> list[LongRun]:
    """All trainings of a study, seed by seed."""
    _, labels = target_spread(data / "train", study.label, progress=False)
    structures = study.train or labels.count
    batches = -(-structures // study.batch_size)
    runs = []
    for seed in SEEDS:
        for model in study.models:
            folder = out / f"{''.join(c if c.isalnum() else '_' for c in model)}-{seed}"
            changes = {
                **schedule(batches, study.epochs),
                "model": model_section(study, MODELS[model]),
                "dataset": dataset_section(study, data, labels.mean, labels.std),
                "optim.batch_size": study.batch_size,
                "optim.num_workers": 0,
            }
            facts = {"model": model, "structures": structures, "epochs": study.epochs}
            runs.append(LongRun(folder, CONFIG, changes, data, study.tests, seed, facts))
    return runs


def model_section(study: Study, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The model's keys with those of the study."""
    section = {**study.graph, **(study.ours if keys["name"].startswith("fairchem_hdgnn.") else {}), **keys}
    if keys["name"] == "schnet":
        del section["max_neighbors"]
    return section


def dataset_section(study: Study, data: Path, mean: float, deviation: float) -> dict[str, Any]:
    """Training and validation data."""
    source = {"format": "safe_lmdb", "key_mapping": {study.label: "energy"}}
    normalizer = {"energy": {"mean": mean, "stdev": deviation}}
    validation, val_size = study.validation
    sections: dict[str, dict[str, Any]] = {
        "train": {**source, "src": str(data / "train/data.lmdb"), "transforms": {"normalizer": normalizer}},
        "val": {**source, "src": str(data / validation / "data.lmdb"), "use_train_settings": False},
    }
    for split, size in (("train", study.train), ("val", val_size)):
        if size is not None:
            sections[split][f"{split}_split_settings"] = {"first_n": size}
    return sections


def by_model(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Results of each model that has any, in the order of MODELS."""
    found = {model: [result for result in results if result["model"] == model] for model in MODELS}
    return {model: of_model for model, of_model in found.items() if of_model}


def table(results: Sequence[dict[str, Any]], study: Study) -> str:
    """As Markdown, meV."""
    titles = " | ".join(map(title_of, study.tests))
    lines = [
        f"| model | parameters | seeds | {titles} | fastest, hours |",
        "| --- | ---: | ---: | " + " | ".join("---:" for _ in study.tests) + " | ---: |",
    ]
    for model, of_model in by_model(results).items():
        cells = [of_seeds([study.to_mev * result["mae"][split] for result in of_model]) for split in study.tests]
        hours = min(result["hours"] for result in of_model)
        parameters = of_model[0]["parameters"]
        lines.append(f"| {model} | {parameters:,} | {len(of_model)} | {' | '.join(cells)} | {hours:.1f} |")
    return "\n".join(lines) + "\n"


def plot(name: str, results: Sequence[dict[str, Any]]) -> Path:
    """Validation error against epochs, a thin line for each seed."""
    to_mev = STUDIES[name].to_mev
    with style():
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for position, (model, of_model) in enumerate(by_model(results).items()):
            look = {"color": colour(position), "linestyle": ("-", "--")[position // len(COLOURS)], "linewidth": 1}
            for number, result in enumerate(of_model):
                steps, maes = result["curve"]
                epochs = [step / steps[-1] * result["epochs"] for step in steps]
                label = model if number == 0 else None
                axes.semilogy(epochs, [to_mev * mae for mae in maes], label=label, **look)
        axes.set(xlabel="epoch", ylabel="validation MAE, meV")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7)
        light_grid(axes)
        return save(figure, PAGE.parent / f"figures/evidence_{name}.png")


def kept(name: str) -> KeptResults:
    """The results of a study, of this machine and of others."""
    return KeptResults(ROOT / f"benchmarks/results/evidence_{name}.json")


def write_page(name: str, runs: Sequence[LongRun]) -> None:
    """Table, figure and JSON of what is done."""
    results = kept(name).take(runs)
    if results:
        figure = plot(name, results).relative_to(PAGE.parent)
        put_into(PAGE, f"evidence_{name}", f"{table(results, STUDIES[name])}\n![learning curves]({figure})\n")


def main() -> None:
    """Go on with a study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("data", type=Path)
    add_arguments(parser)
    args = parser.parse_args()
    data = args.data
    if args.study == "hea":
        data = args.out / "hea_data"
        convert(args.data, args.out / "hea_source", data)
    runs = kept(args.study).left(runs_of(STUDIES[args.study], data.resolve(), args.out.resolve() / args.study))
    continue_runs(runs, args.hours, args.processes, lambda: write_page(args.study, runs))


if __name__ == "__main__":
    main()
