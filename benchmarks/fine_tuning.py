"""Fine-tuning against training from scratch: ``python benchmarks/fine_tuning.py HEA TINNET OUT --hours H``.

HEA is hea_adsorption.npz (benchmarks/hea_data.py): 6,126 adsorption energies of H, O, OH, CO and NO on alloys of seven
metals; a model is pretrained on all splits but val_id. TINNET is tinnet_oh.npz, in the same format: 600 unrelaxed
structures of OH on other alloys, with more elements and another energy reference, without relaxed positions; 120 of
them, drawn at random once, are the test set. Training on 50, 150 or all 480 others starts from random weights, or from
the pretrained ones with a fresh head, with the same optimizer, steps and schedule. A call works for H hours; call it
again to continue.

Writes the table of docs/training.md and benchmarks/results/fine_tuning.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hea_data import load, write_split
from kept_results import KeptResults
from long_runs import LongRun, add_arguments, continue_runs, schedule
from pages import of_seeds, put_into

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS

ROOT = Path(__file__).parents[1]
KEPT = KeptResults(ROOT / "benchmarks/results/fine_tuning.json")
CONFIG = "hdgnn:oc20/is2re/small/hdgnn.yml"
BATCH_SIZE = 8
PRETRAINING_EPOCHS = 8
NUM_TEST = 120
STEPS = {50: 1000, 150: 1500, 480: 3000}
"""Structures -> steps of each training on them."""

SEEDS = (0, 1, 2)
START = "optim.fine_tuning"
VARIANTS: dict[str, Mapping[str, Any]] = {
    "from scratch": {},
    "fine-tuned": {f"{START}.heads": "fresh"},
    "fine-tuned, `layer_decay: 0.5`": {f"{START}.heads": "fresh", f"{START}.layer_decay": 0.5},
}


def convert(hea: Path, tinnet: Path, out: Path) -> Path:
    """LMDBs ``hea``, ``val_id``, ``test`` and one for each number of structures, unless they are there."""
    pretraining, tuning = load(hea), load(tinnet)
    del tuning["pos_relaxed"]  # not a number
    in_domain = pretraining["split"] == VALIDATION_SPLITS[0]
    shuffled = np.random.default_rng(0).permutation(len(tuning["y"]))
    write_split(pretraining, np.flatnonzero(~in_domain), out, out, "hea")
    write_split(pretraining, np.flatnonzero(in_domain), out, out, "val_id")
    write_split(tuning, shuffled[:NUM_TEST], out, out, "test")
    for size in STEPS:
        write_split(tuning, shuffled[NUM_TEST:][:size], out, out, str(size))
    return out


def run(
    out: Path, data: Path, train: str, test: str, name: str, steps: int, seed: int, changes: Mapping[str, Any]
) -> LongRun:
    """A training on ``train`` of about so many steps, tested on ``test``."""
    _, labels = target_spread(data / train, "y_relaxed", progress=False)
    batches = -(-labels.count // BATCH_SIZE)
    epochs = max(1, round(steps / batches))
    settings: dict[str, Any] = {
        **schedule(batches, epochs),
        "dataset.train.src": str(data / train / "data.lmdb"),
        "dataset.train.transforms.normalizer.energy": {"mean": labels.mean, "stdev": labels.std},
        # Only looked at: the weights of the last step are tested.
        "dataset.val.src": str(data / test / "data.lmdb"),
        "dataset.test": None,
        "optim.batch_size": BATCH_SIZE,
        "optim.num_workers": 0,
        **changes,
    }
    facts = {"model": name, "structures": labels.count, "steps": epochs * batches, "spread": labels.std}
    folder = out / f"{''.join(letter if letter.isalnum() else '_' for letter in name)}-{train}-{seed}"
    return LongRun(folder, CONFIG, settings, data, (test,), seed, facts)


def table(results: list[dict[str, Any]]) -> str:
    """As Markdown: MAE on the test structures, meV."""
    lines = [
        "| structures | steps | " + " | ".join(VARIANTS) + " |",
        "| ---: | ---: | " + " | ".join("---:" for _ in VARIANTS) + " |",
    ]
    for size in STEPS:
        of_size = [result for result in results if result["structures"] == size]
        if not of_size:
            continue
        cells = []
        for name in VARIANTS:
            maes = [1000 * result["mae"]["test"] for result in of_size if result["model"] == name]
            cells.append(f"{of_seeds(maes)} ({len(maes)})" if maes else "")
        lines.append(f"| {size} | {of_size[0]['steps']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def report(runs: list[LongRun]) -> None:
    """Write what is done."""
    put_into(ROOT / "docs/training.md", "fine_tuning", table(KEPT.take(runs)))


def main() -> None:
    """Go on."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("hea", type=Path)
    parser.add_argument("tinnet", type=Path)
    add_arguments(parser)
    args = parser.parse_args()
    out = args.out.resolve()
    data = convert(args.hea, args.tinnet, out / "data")
    steps = PRETRAINING_EPOCHS * -(-len(Records(data / "hea")) // BATCH_SIZE)
    first = run(out, data, "hea", "val_id", "pretrained", steps, 0, {})
    continue_runs([first], args.hours, 1, lambda: None)
    if first.result is None:
        return
    start = {f"{START}.init_from": str(first.checkpoints / "checkpoint.pt")}
    runs = [
        run(out, data, str(size), "test", name, STEPS[size], seed, {**start, **changes} if changes else {})
        for seed, size, (name, changes) in itertools.product(SEEDS, STEPS, VARIANTS.items())
    ]
    runs = KEPT.left(runs)
    continue_runs(runs, args.hours, args.processes, lambda: report([first, *runs]))


if __name__ == "__main__":
    main()
