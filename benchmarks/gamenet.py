"""HDGNN and eSCN on GAME-Net's FG set beside published numbers: ``python benchmarks/gamenet.py LMDBS OUT --hours H``.

LMDBS is what ``fairchem-hdgnn prepare-gamenet`` wrote. Trains on folds 1, 2 and 3, from initial structures to relaxed
energies, and tests once on fold 0, which nothing was chosen on: the recipe, configs/oc20/is2re/small, was chosen with
``--choose`` on folds 2 and 3 -> 1. Three seeds, one thread a run. A call works for H hours; the next one goes on.

Writes the table of docs/evidence.md and benchmarks/results/gamenet.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from evidence import put_into
from long_runs import LongRun, go_on, num_records, schedule, where

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.directories import new_directory
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.reading import Records

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/evidence.md"
SEEDS, EPOCHS, BATCH_SIZE = (0, 1, 2), 60, 8
MODELS = {"HDGNN": "hdgnn", "eSCN": "escn_so2"}

PUBLISHED = {"GemNet-dT": (124, 6), "PaiNN": (184, 8), "DimeNet++": (493, 71)}
"""meV, mean and standard deviation of single runs over 20 folds (Pablo-García et al., Nat. Comput. Sci. 2023)."""


def joined(lmdbs: Path, folds: Sequence[int], out: Path) -> Path:
    """``out/train`` of these folds, made once."""
    folder = out / "train"
    if not folder.is_dir():
        out.mkdir(parents=True, exist_ok=True)
        with new_directory(folder) as partial:
            write_lmdb(partial, itertools.chain.from_iterable(Records(lmdbs / f"fold_{fold}") for fold in folds))
    return folder


def runs_of(lmdbs: Path, out: Path, train: Sequence[int], test: int) -> list[LongRun]:
    """All trainings."""
    data = joined(lmdbs, train, out / "data")
    _, labels = target_spread(data, "y_relaxed", progress=False)
    batches = -(-num_records(data) // BATCH_SIZE)
    tested = lmdbs / f"fold_{test}"
    runs = []
    for seed, (name, config) in itertools.product(SEEDS, MODELS.items()):
        source = {"format": "safe_lmdb", "key_mapping": {"y_relaxed": "energy"}}
        normalizer = {"energy": {"mean": labels.mean, "stdev": labels.std}}
        changes: dict[str, Any] = {
            **schedule(batches, EPOCHS),
            "dataset": {
                "train": {**source, "src": str(data / "data.lmdb"), "transforms": {"normalizer": normalizer}},
                # Only looked at: the weights of the last step are tested.
                "val": {**source, "src": str(tested / "data.lmdb"), "use_train_settings": False},
            },
            "optim.batch_size": BATCH_SIZE,
            "optim.num_workers": 0,
        }
        path = f"hdgnn:oc20/is2re/small/{config}.yml"
        facts = {"model": name, "epochs": EPOCHS, "structures": num_records(data)}
        runs.append(LongRun(out / f"{config}-{seed}", path, changes, lmdbs, (tested.name,), seed, facts))
    return runs


def table(runs: Sequence[LongRun], test: str) -> str:
    """As Markdown: single runs, and the mean of a model's predictions, meV."""
    lines = ["| model | seeds | MAE of one | of their mean | hours a run |", "| --- | ---: | ---: | ---: | ---: |"]
    for name in MODELS:
        results = [run.result for run in runs if run.result is not None and run.result["model"] == name]
        if not results:
            continue
        maes = [1000 * result["mae"][test] for result in results]
        mean = statistics.mean(maes)
        spread = f" ± {max(abs(mae - mean) for mae in maes):.0f}" if len(maes) > 1 else ""
        errors = np.mean([list(result["errors"][test].values()) for result in results], axis=0)
        hours = statistics.mean(result["hours"] for result in results)
        ensemble = f"{1000 * np.abs(errors).mean():.0f}" if len(maes) > 1 else ""
        lines.append(f"| {name} | {len(results)} | {mean:.0f}{spread} | {ensemble} | {hours:.1f} |")
    lines += [
        f"| {name}, published | 20 folds | {mae} ± {deviation} | | |" for name, (mae, deviation) in PUBLISHED.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lmdbs", type=Path, help="folder with fold_0 to fold_3")
    parser.add_argument("out", type=Path, help="folder of the runs; what is done in it is kept")
    parser.add_argument("--choose", action="store_true", help="train on folds 2 and 3, test on 1")
    parser.add_argument("--hours", type=float, default=2.0, help="of this sitting (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="runs at once, a thread each (default: %(default)s)")
    args = parser.parse_args()
    train, test = ((2, 3), 1) if args.choose else ((1, 2, 3), 0)
    runs = runs_of(args.lmdbs.resolve(), args.out.resolve(), train, test)

    def report() -> None:
        if not args.choose and any(run.result for run in runs):
            put_into(PAGE, "gamenet", table(runs, f"fold_{test}"))
            results = [{k: v for k, v in run.result.items() if k != "errors"} for run in runs if run.result]
            (ROOT / "benchmarks/results/gamenet.json").write_text(json.dumps(results, indent=1) + "\n")

    go_on(runs, args.hours, args.processes, report)
    report()
    for run in runs:
        print(f"{run.folder.name:20} {where(run)}")


if __name__ == "__main__":
    main()
