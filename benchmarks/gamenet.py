"""HDGNN and eSCN on GAME-Net's FG set, next to published numbers: ``python benchmarks/gamenet.py LMDBS OUT --hours H``.

LMDBS is the output of ``fairchem-hdgnn prepare-gamenet``, with either target. Trains on folds 1, 2 and 3, from initial
structures to relaxed energies, and tests once on fold 0, which no choice was based on. Three seeds, one thread per run.
With ``--choose``: variants of the recipe, configs/oc20/is2re/small, trained on folds 2 and 3, tested on fold 1, two
seeds and fewer epochs. A call works for H hours; call it again to continue.

Writes the table of docs/evidence.md and README.md, and benchmarks/results/gamenet.json; with ``--choose`` the table of
docs/training.md and benchmarks/results/gamenet_choice.json. Runs that are in these results are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from kept_results import KeptResults
from long_runs import LongRun, add_arguments, continue_runs, schedule
from pages import of_seeds, put_into

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.gamenet import DESCRIPTION_FILE
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.reading import Records

ROOT = Path(__file__).parents[1]
BATCH_SIZE = 8
HDGNN, ESCN = "hdgnn_noisy_nodes", "escn_so2_noisy_nodes"
CUTOFF_6 = {"model.cutoff": 6.0, "model.max_neighbors": 20, "model.mean_neighbors": 20.0}


@dataclass(frozen=True)
class Study:
    """Which models are trained on what.

    Attributes:
        name: of table and results.
        pages: with the table.
        train: folds.
        test: fold.
        epochs: of each run.
        seeds: of each variant.
        variants: name -> shipped config, and other values by dotted key.
        published: name -> mean and standard deviation, meV.
    """

    name: str
    pages: tuple[Path, ...]
    train: tuple[int, ...]
    test: int
    epochs: int
    seeds: tuple[int, ...]
    variants: Mapping[str, tuple[str, Mapping[str, Any]]]
    published: Mapping[str, tuple[int, int]]

    @property
    def split(self) -> str:
        """The fold that is tested."""
        return f"fold_{self.test}"


def learning_rate(value: float) -> dict[str, float]:
    """Changes for that largest learning rate."""
    return {"optim.lr_initial": value, "optim.max_lr": value}


TEST = Study(
    "gamenet", (ROOT / "docs/evidence.md", ROOT / "README.md"), (1, 2, 3), 0, 60, (0, 1, 2),
    {"HDGNN": (HDGNN, {}), "HDGNN, three layers": (HDGNN, {"model.num_layers": 3}), "eSCN": (ESCN, {})},
    # Single runs over 20 folds (Pablo-García et al., Nat. Comput. Sci. 2023).
    {"GemNet-dT": (124, 6), "PaiNN": (184, 8), "DimeNet++": (493, 71)},
)  # fmt: skip
CHOICE = Study(
    "gamenet_choice", (ROOT / "docs/training.md",), (2, 3), 1, 30, (0, 1),
    {
        "as shipped": (HDGNN, {}),
        "without Noisy Nodes": ("hdgnn", {}),
        "`message: hybrid`": (HDGNN, {"model.message": "hybrid"}),
        "`cutoff: 6`, `max_neighbors: 20`": (HDGNN, CUTOFF_6),
        "`sphere_channels: 64`": (HDGNN, {"model.sphere_channels": 64}),
        "`num_layers: 3`": (HDGNN, {"model.num_layers": 3}),
        "learning rate 5e-4": (HDGNN, learning_rate(5e-4)),
        "learning rate 2e-3": (HDGNN, learning_rate(2e-3)),
        "`weight_init: torch`": (HDGNN, {"model.weight_init": "torch"}),
        "`energy_scale: 1`": (HDGNN, {"model.energy_scale": 1.0}),
        "`energy_scale: 1`, learning rate 2e-3": (HDGNN, {"model.energy_scale": 1.0, **learning_rate(2e-3)}),
        "eSCN": (ESCN, {}),
        "eSCN, `weight_init: torch`": (ESCN, {"model.weight_init": "torch"}),
    },
    {},
)  # fmt: skip


def runs_of(study: Study, lmdbs: Path, out: Path) -> list[LongRun]:
    """All trainings of a study, seed by seed."""
    data = joined(lmdbs, study.train, out / "data")
    _, labels = target_spread(data, "y_relaxed", progress=False)
    batches = -(-labels.count // BATCH_SIZE)
    runs = []
    for seed, (name, (config, others)) in itertools.product(study.seeds, study.variants.items()):
        changes: dict[str, Any] = {
            **schedule(batches, study.epochs),
            "dataset.train.src": str(data / "data.lmdb"),
            "dataset.train.transforms.normalizer.energy": {"mean": labels.mean, "stdev": labels.std},
            # Only looked at: the weights of the last step are tested.
            "dataset.val.src": str(lmdbs / study.split / "data.lmdb"),
            "dataset.test": None,
            "optim.batch_size": BATCH_SIZE,
            "optim.num_workers": 0,
            **others,
        }
        words = "".join(letter if letter.isalnum() else " " for letter in name).split()
        folder = out / f"{'_'.join(words)}-{seed}"
        facts = {"model": name, "epochs": study.epochs, "structures": labels.count}
        path = f"hdgnn:oc20/is2re/small/{config}.yml"
        runs.append(LongRun(folder, path, changes, lmdbs, (study.split,), seed, facts))
    return runs


def joined(lmdbs: Path, folds: Sequence[int], out: Path) -> Path:
    """``out/train`` of these folds, made once."""
    folder = out / "train"
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        with new_directory(folder) as partial:
            write_lmdb(partial, itertools.chain.from_iterable(Records(lmdbs / f"fold_{fold}") for fold in folds))
    return folder


def kept(study: Study) -> KeptResults:
    """The results of a study, of this machine and of others."""
    return KeptResults(ROOT / f"benchmarks/results/{study.name}.json", errors=True)


def table(study: Study, results: Sequence[Mapping[str, Any]]) -> str:
    """As Markdown: single runs, and the mean of a model's predictions, meV."""
    lines = ["| model | seeds | MAE of one | of their mean | fastest, hours |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in study.variants:
        found = [result for result in results if result["model"] == name]
        if not found:
            continue
        maes = [1000 * result["mae"][study.split] for result in found]
        errors = [result["errors"][study.split] for result in found if "errors" in result]
        hours = min(result["hours"] for result in found)
        ensemble = f"{1000 * np.abs(np.mean(errors, axis=0)).mean():.0f} ({len(errors)})" if len(errors) > 1 else ""
        lines.append(f"| {name} | {len(found)} | {of_seeds(maes)} | {ensemble} | {hours:.1f} |")
    for name, (mae, deviation) in study.published.items():
        lines.append(f"| {name}, published | 20 folds | {mae} ± {deviation} | | |")
    return "\n".join(lines) + "\n"


def report(study: Study, runs: Sequence[LongRun]) -> None:
    """Write what is done."""
    results = kept(study).take(runs)
    if results:
        for page in study.pages:
            put_into(page, study.name, table(study, results))


def main() -> None:
    """Go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lmdbs", type=Path, help="folder with fold_0 to fold_3")
    add_arguments(parser)
    parser.add_argument("--choose", action="store_true", help="train variants on folds 2 and 3, test on 1")
    args = parser.parse_args()
    study = CHOICE if args.choose else TEST
    target = json.loads((args.lmdbs / DESCRIPTION_FILE).read_text())["target"]
    if target != "total":
        # No number is published for other labels.
        study = replace(study, name=f"{study.name}_{target}", pages=study.pages[:1], published={})
    runs = kept(study).left(runs_of(study, args.lmdbs.resolve(), args.out.resolve() / study.name))
    continue_runs(runs, args.hours, args.processes, lambda: report(study, runs))


if __name__ == "__main__":
    main()
