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
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write
from hea_data import structure
from kept_results import KeptResults
from long_runs import LongRun, add_arguments, continue_runs, schedule
from pages import of_seeds, put_into

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
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
    data = {}
    for source in (hea, tinnet):
        with np.load(source, allow_pickle=False) as arrays:
            data[source] = {key: arrays[key] for key in arrays.files if key != "meta"}
    split = data[hea]["split"]
    systems = {"val_id": np.flatnonzero(split == VALIDATION_SPLITS[0])}
    systems["hea"] = np.flatnonzero(split != VALIDATION_SPLITS[0])
    _convert([structure(data[hea], each) for each in systems["hea"]], out, "hea")
    _convert([structure(data[hea], each) for each in systems["val_id"]], out, "val_id")
    shuffled = np.random.default_rng(0).permutation(len(data[tinnet]["y"]))
    parts = {"test": shuffled[:NUM_TEST], **{str(size): shuffled[NUM_TEST:][:size] for size in STEPS}}
    for name, chosen in parts.items():
        _convert([unrelaxed(data[tinnet], each) for each in chosen], out, name)
    return out


def unrelaxed(data: Mapping[str, np.ndarray], system: np.integer) -> Atoms:
    """One system of TINNET with tags, fixed atoms and label."""
    atoms_of = slice(data["ptr"][system], data["ptr"][system + 1])
    atoms = Atoms(data["numbers"][atoms_of], positions=data["pos"][atoms_of], cell=data["cell"][system], pbc=True)
    atoms.set_tags(data["tags"][atoms_of].astype(int))
    atoms.set_constraint(FixAtoms(mask=data["fixed"][atoms_of]))
    atoms.info = {"sid": str(data["sid"][system]), "y_relaxed": float(data["y"][system])}
    return atoms


def _convert(structures: list[Atoms], out: Path, name: str) -> None:
    if not (out / name).is_dir():
        out.mkdir(parents=True, exist_ok=True)
        write(out / f"{name}.extxyz", structures)
        make_lmdb(out / f"{name}.extxyz", out / name, Conversion("is2re"))


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
