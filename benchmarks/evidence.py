"""HDGNN's variants, eSCN, PaiNN and SchNet at equal epochs: ``python benchmarks/evidence.py STUDY DATA OUT --hours H``.

``hea``: adsorption energies on alloys, 3,951 structures, 12 epochs; DATA is hea_adsorption.npz (benchmarks/hea.py).
``qm9``: the gap of 10,000 molecules, 10 epochs; DATA is what ``fairchem-hdgnn prepare-qm9`` wrote. Three seeds each,
one thread per run. All models use the optimizer, learning rate, schedule and epochs of configs/oc20/is2re/small, which
were chosen for HDGNN. A call works for H hours; call it again to continue. Runs are ordered by seed, so that the table
fills evenly.

Writes the table and the learning curves of docs/evidence.md, and benchmarks/results/evidence_STUDY.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hea import convert
from long_runs import LongRun, add_arguments, continue_runs, schedule
from matplotlib.figure import Figure
from pages import of_seeds, put_into

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.evaluation.plot_style import colour, light_grid, save, style
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS, title_of

ROOT = Path(__file__).parents[1]
CONFIG = "hdgnn:oc20/is2re/small/hdgnn.yml"
PAGE = ROOT / "docs/evidence.md"
SEEDS = (0, 1, 2)
SIZES = {"lmax": 2, "num_layers": 2, "sphere_channels": 32, "hidden_channels": 64, "edge_channels": 64}
HDGNN = {"name": "fairchem_hdgnn.HDGNN", **SIZES, "lmax_metp": 2, "invariant_channels": 64, "preset": "paper"}

SPHERICAL: dict[str, dict[str, Any]] = {
    "HDGNN, tensor product alone": {**HDGNN, "message": "fully_tp"},
    "HDGNN": HDGNN,
    "eSCN": {"name": "fairchem_hdgnn.ESCN", **SIZES, "mmax": 2, "basis_width": 2.0},
    "HDGNN, fixed frames": {**HDGNN, "frames": "fixed"},
    "HDGNN, equivariant linear layers": {**HDGNN, "message": "linear"},
    "HDGNN, unrestricted network": {**HDGNN, "message": "unrestricted"},
    "HDGNN, authors": {**HDGNN, "preset": "authors"},
    "HDGNN, seeded frames": {**HDGNN, "frames": "seeded"},
}
OF_FAIRCHEM: dict[str, dict[str, Any]] = {
    "PaiNN": {"name": "painn", "num_layers": 4, "hidden_channels": 128, "num_rbf": 64},
    "SchNet": {
        "name": "schnet", "num_interactions": 4, "hidden_channels": 256, "num_filters": 128, "num_gaussians": 100,
    },
}  # fmt: skip
"""fairchem's own, as in its configurations but for the widths."""

GRAPH = {"cutoff": 5.0, "regress_forces": False, "otf_graph": True}


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
        spherical: keys of ours.
    """

    epochs: int
    train: int | None
    validation: tuple[str, int | None]
    tests: tuple[str, ...]
    label: str
    to_mev: float
    batch_size: int
    graph: Mapping[str, Any]
    spherical: Mapping[str, Any]


STUDIES = {
    "hea": Study(
        12, None, ("val_id", None), VALIDATION_SPLITS, "y_relaxed", 1000.0, 8,
        {**GRAPH, "use_pbc": True, "max_neighbors": 12},
        {"energy_scale": 0.15, "mean_neighbors": 12.0, "distance_resolution": 0.05, "num_sphere_samples": 64},
    ),
    "qm9": Study(
        10, 10_000, ("val", 2000), ("test",), "gap", 1.0, 16,
        {**GRAPH, "use_pbc": False, "max_neighbors": 30},
        {"energy_scale": 0.25, "mean_neighbors": 14.0, "distance_resolution": 0.05, "num_sphere_samples": 64},
    ),
}  # fmt: skip


def runs_of(name: str, data: Path, out: Path) -> list[LongRun]:
    """All trainings of a study, seed by seed."""
    study = STUDIES[name]
    _, labels = target_spread(data / "train", study.label, progress=False)
    batches = -(-(study.train or labels.count) // study.batch_size)
    runs = []
    for seed in SEEDS:
        for variant, model in {**SPHERICAL, **OF_FAIRCHEM}.items():
            folder = out / name / f"{''.join(c if c.isalnum() else '_' for c in variant)}-{seed}"
            changes = {
                **schedule(batches, study.epochs),
                "model": model_section(study, variant, model),
                "dataset": dataset_section(study, data, labels.mean, labels.std),
                "optim.batch_size": study.batch_size,
                "optim.num_workers": 0,
            }
            facts = {"variant": variant, "study": name, "epochs": study.epochs}
            runs.append(LongRun(folder, CONFIG, changes, data, study.tests, seed, facts))
    return runs


def model_section(study: Study, variant: str, model: Mapping[str, Any]) -> dict[str, Any]:
    """The variant's keys with those of the study."""
    keys = {**study.graph, **(study.spherical if variant in SPHERICAL else {}), **model}
    if variant == "SchNet":
        del keys["max_neighbors"]
    return keys


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


def summary(runs: list[LongRun], to_mev: float) -> dict[str, list[dict[str, Any]]]:
    """Results of each variant that has any, meV."""
    found: dict[str, list[dict[str, Any]]] = {}
    for result in (run.summary for run in runs):
        if result is not None:
            result["mae"] = {split: to_mev * mae for split, mae in result["mae"].items()}
            steps, maes = result["curve"]
            result["curve"] = [steps, [to_mev * mae for mae in maes]]
            found.setdefault(str(result["variant"]), []).append(result)
    return found


def table(found: Mapping[str, list[dict[str, Any]]], tests: tuple[str, ...]) -> str:
    """As Markdown."""
    lines = [
        "| model | seeds | " + " | ".join(title_of(split) for split in tests) + " | fastest, hours |",
        "| --- | ---: | " + " | ".join("---:" for _ in tests) + " | ---: |",
    ]
    for variant, results in found.items():
        cells = [of_seeds([result["mae"][split] for result in results]) for split in tests]
        hours = min(result["hours"] for result in results)
        lines.append(f"| {variant} | {len(results)} | {' | '.join(cells)} | {hours:.1f} |")
    return "\n".join(lines) + "\n"


def plot(name: str, found: Mapping[str, list[dict[str, Any]]]) -> Path:
    """Validation error against epochs, a thin line for each seed."""
    with style():
        figure = Figure(figsize=(7, 4))
        axes = figure.subplots()
        for position, (variant, results) in enumerate(found.items()):
            for number, result in enumerate(results):
                steps, maes = result["curve"]
                epochs = [step / steps[-1] * result["epochs"] for step in steps]
                label = variant if number == 0 else None
                axes.semilogy(epochs, maes, color=colour(position), linewidth=1, label=label)
        axes.set(xlabel="epoch", ylabel="validation MAE, meV")
        axes.legend(fontsize=7)
        light_grid(axes)
        return save(figure, PAGE.parent / f"figures/evidence_{name}.png")


def write_page(name: str, runs: list[LongRun]) -> None:
    """Table, figure and JSON of what is done."""
    study = STUDIES[name]
    found = summary(runs, study.to_mev)
    if not found:
        return
    results = ROOT / f"benchmarks/results/evidence_{name}.json"
    results.write_text(json.dumps(found, indent=1) + "\n")
    plot(name, found)
    put_into(PAGE, f"evidence_{name}", table(found, study.tests))


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
    runs = runs_of(args.study, data.resolve(), args.out.resolve())
    continue_runs(runs, args.hours, args.processes, lambda: write_page(args.study, runs))


if __name__ == "__main__":
    main()
