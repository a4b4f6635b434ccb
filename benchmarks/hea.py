"""HDGNN, eSCN and fairchem's own models on real DFT energies: ``python benchmarks/hea.py hea_adsorption.npz OUT``.

The data: adsorption energies of H, O, OH, CO and NO on (111) surfaces of alloys of Ag, Au, Cu, Ir, Pd, Pt and Ru,
46 or 47 atoms a system, with splits as in OC20 (unseen adsorbate, unseen alloys, both). The file stores all systems
one after another: ``ptr`` [n+1], per atom ``numbers``, ``tags``, ``fixed``, ``pos``, ``pos_relaxed``, per system
``cell``, ``y`` (eV), ``sid``, ``split``. The script uses ``make-lmdb`` and ``train`` as a user would.

Every model gets the same CPU time on one thread for its training steps: the time of a step is measured first and
determines the number of epochs and the learning rate schedule. Reading the first batches and the final evaluation are
not counted. Models, optimizer and learning rate are not tuned to these data. Finished runs are kept, so two calls with
half of ``--models`` each can share OUT before a last call with all of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import write
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports
from fairchem.core.datasets import data_list_collater
from one_thread import cpu_minutes, seconds_per_step

from fairchem_hdgnn.checks.targets import target_spread
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
from fairchem_hdgnn.evaluation.evaluate import evaluate, write_systems
from fairchem_hdgnn.evaluation.inference import InferenceOptions
from fairchem_hdgnn.evaluation.report import print_tables, write_tables
from fairchem_hdgnn.evaluation.splits import VALIDATION_SPLITS
from fairchem_hdgnn.host.allocator import keep_freed_memory
from fairchem_hdgnn.host.checkpoints import quiet_fairchem

BATCH_SIZE = 8
GRAPH = {"cutoff": 6.0, "max_neighbors": 20, "use_pbc": True, "otf_graph": True, "regress_forces": False}
WIDTHS = {"num_layers": 2, "sphere_channels": 32, "hidden_channels": 64, "edge_channels": 64}
# The start that docs/leaderboard.md has numbers of, and fairchem's models have.
SPHERICAL = {**WIDTHS, "weight_init": "torch", "readout_init": "random"}
HDGNN = {"name": "fairchem_hdgnn.HDGNN", **GRAPH, **SPHERICAL, "lmax": 2, "lmax_metp": 2, "invariant_channels": 64}
MODELS: dict[str, dict[str, Any]] = {
    "HDGNN (paper)": {**HDGNN, "preset": "paper"},
    "HDGNN (authors)": {**HDGNN, "preset": "authors"},
    "eSCN": {"name": "fairchem_hdgnn.ESCN", **GRAPH, **SPHERICAL, "lmax": 2, "mmax": 2, "basis_width": 2.0},
    "fairchem escn": {
        "name": "escn", **GRAPH, **WIDTHS, "lmax_list": [2], "mmax_list": [2], "basis_width_scalar": 2.0,
    },
    "fairchem painn": {"name": "painn", **GRAPH, "num_layers": 4, "hidden_channels": 128, "num_rbf": 64},
    "fairchem schnet": {
        "name": "schnet", **{key: value for key, value in GRAPH.items() if key != "max_neighbors"},
        "num_interactions": 4, "hidden_channels": 256, "num_filters": 128, "num_gaussians": 100,
    },
}  # fmt: skip

LIMITS = """\
These are not OC20's numbers, and small models after minutes on a CPU say little about large ones after days on GPUs.
The starts are partly made up: those of H and NO are real; those of CO are NO's with N replaced by C; O and OH were set
on the relaxed slab at their site, which gives away part of the answer. One run each with one learning rate for all, not
tuned for any; another seed or rate may change the order. fairchem's escn multiplies its energies by 0.001, which suits
its S2EF recipe and slows it here; its painn runs without fitted scale factors, which fairchem does not install. val_id
has 219 systems only: look at the intervals."""


def main() -> None:
    """Convert, train each model for its time, and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="hea_adsorption.npz")
    parser.add_argument("out", type=Path, help="folder for LMDBs, runs and tables; finished runs in it are kept")
    parser.add_argument("--minutes", type=float, default=15.0, help="of training steps for each model")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS), metavar="NAME")
    parser.add_argument("--lr", type=float, default=1e-3, help="largest learning rate, for all models")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    with quiet_fairchem():
        setup_imports()
    lmdbs = args.out / "data"
    convert(args.data, args.out / "source", lmdbs)
    facts = {name: train(name, lmdbs, args) for name in args.models}
    checkpoints = {name: run_folder(args.out, name) / "checkpoints/run/best_checkpoint.pt" for name in args.models}
    options = InferenceOptions(cpu=True, batch_size=32, seed=args.seed)
    evaluation = evaluate(checkpoints, lmdbs, VALIDATION_SPLITS, options)
    notes = [*evaluation.notes, LIMITS.replace("\n", " ")]
    print_tables(evaluation.comparison, notes, with_paper=False)
    all_facts = {**evaluation.facts, "training": facts}
    write_tables(evaluation.comparison, notes, all_facts, args.out, with_paper=False)
    write_systems(evaluation, args.out)
    table = training_table(facts)
    with (args.out / "table.md").open("a", encoding="utf-8") as stream:
        stream.write(f"\n{table}")
    print(f"{table}\nWritten: {args.out / 'table.md'}")


def convert(source: Path, structures: Path, lmdbs: Path) -> None:
    """One extxyz file and one LMDB for each split, unless they are there."""
    with np.load(source, allow_pickle=False) as arrays:
        data = {key: arrays[key] for key in arrays.files if key != "meta"}
    structures.mkdir(parents=True, exist_ok=True)
    for split in ("train", *VALIDATION_SPLITS):
        if (lmdbs / split).is_dir():
            continue
        systems = np.flatnonzero(data["split"] == split)
        write(structures / f"{split}.extxyz", [structure(data, system) for system in systems])
        make_lmdb(structures / f"{split}.extxyz", lmdbs / split, Conversion("is2re"))


def structure(data: dict[str, np.ndarray], system: np.integer) -> Atoms:
    """One system with tags, fixed atoms, label and relaxed positions."""
    atoms_of = slice(data["ptr"][system], data["ptr"][system + 1])
    atoms = Atoms(data["numbers"][atoms_of], positions=data["pos"][atoms_of], cell=data["cell"][system], pbc=True)
    atoms.set_tags(data["tags"][atoms_of].astype(int))
    atoms.set_constraint(FixAtoms(mask=data["fixed"][atoms_of]))
    atoms.set_array("pos_relaxed", data["pos_relaxed"][atoms_of].astype(float))
    atoms.info = {"sid": str(data["sid"][system]), "y_relaxed": float(data["y"][system])}
    return atoms


def run_folder(out: Path, name: str) -> Path:
    """Where a model's run lies."""
    return out / "runs" / "".join(letter if letter.isalnum() else "_" for letter in name).strip("_")


def train(name: str, lmdbs: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train for ``args.minutes``, unless it was done before; returns what was done."""
    folder = run_folder(args.out, name)
    finished = folder / "facts.json"
    if finished.is_file():
        return json.loads(finished.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    records = Records(lmdbs / "train")
    seconds, parameters = time_step(MODELS[name], records)
    steps = max(1, round(60 * args.minutes / seconds))
    # Whole epochs, of all systems or, if the time is too short for one, of so many as it suffices for.
    systems = min(len(records), BATCH_SIZE * steps)
    epochs = max(1, round(steps * BATCH_SIZE / systems))
    steps = epochs * -(-systems // BATCH_SIZE)
    path = folder / "config.yml"
    config = configuration(MODELS[name], lmdbs, args.lr, epochs, steps, systems)
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "fairchem_hdgnn.cli", "train", "--mode", "train", "--config-yml", str(path)]
    command += ["--run-dir", str(folder), "--timestamp-id", "run", "--cpu", "--seed", str(args.seed)]
    print(f"{name}: {parameters:,} parameters, {seconds:.3f} s a step, {epochs} epochs of {systems:,} systems")
    facts = {
        "parameters": parameters,
        "seconds_per_step": seconds,
        "epochs": steps * BATCH_SIZE / len(records),
        "systems": systems,
        "steps": steps,
        "minutes": cpu_minutes(command, folder / "train.log"),
    }
    finished.write_text(json.dumps(facts))
    return facts


def time_step(model: dict[str, Any], records: Records) -> tuple[float, int]:
    """CPU time of a training step, and the number of parameters."""
    keys = copy.deepcopy(model)
    torch.manual_seed(0)
    network = registry.get_model_class(keys.pop("name"))(**keys)

    def loss(step: int) -> torch.Tensor:
        rows = range(BATCH_SIZE * step, BATCH_SIZE * (step + 1))
        batch = data_list_collater([records[row] for row in rows], otf_graph=True)
        return (network(batch)["energy"].flatten() - batch.y_relaxed).abs().mean()

    return seconds_per_step(network, loss, steps=12, warm_up=2)


def configuration(
    model: dict[str, Any], lmdbs: Path, lr: float, epochs: int, steps: int, systems: int
) -> dict[str, Any]:
    """The same training for all models but for the number of epochs."""
    _, labels = target_spread(lmdbs / "train", "y_relaxed", progress=False)
    source = {"format": "safe_lmdb", "key_mapping": {"y_relaxed": "energy"}}
    normaliser = {"energy": {"mean": labels.mean, "stdev": labels.std}}
    return {
        "trainer": "fairchem_hdgnn.Trainer",
        "logger": "tensorboard",
        "task": {"prediction_dtype": "float32"},
        "model": model,
        "dataset": {
            "train": {
                **source,
                "src": str((lmdbs / "train/data.lmdb").resolve()),
                "transforms": {"normalizer": normaliser},
                "train_split_settings": {"sample_n": systems},
            },
            "val": {**source, "src": str((lmdbs / "val_id/data.lmdb").resolve()), "use_train_settings": False},
        },
        "outputs": {"energy": {"level": "system", "prediction_dtype": "float32"}},
        "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
        "evaluation_metrics": {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"},
        "optim": {
            "batch_size": BATCH_SIZE,
            "eval_batch_size": 32,
            "num_workers": 0,
            "load_balancing": "atoms",
            "load_balancing_on_error": "warn_and_no_balance",
            "optimizer": "AdamW",
            "optimizer_params": {"weight_decay": 0.01, "amsgrad": True},
            "lr_initial": lr,
            "scheduler": "OneCycleLR",
            "max_lr": lr,
            "total_steps": max(steps + 1, 100),
            "pct_start": 0.1,
            "cycle_momentum": False,
            "ema_decay": 0.99,
            "clip_grad_norm": 100,
            "max_epochs": epochs,
            "eval_every": steps,
        },
    }


def training_table(facts: dict[str, dict[str, Any]]) -> str:
    """How each model was trained, as Markdown."""
    lines = [
        "### Training, one thread",
        "",
        "| model | parameters | s per step of 8 | steps | epochs | CPU minutes, start and last evaluation included |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, each in facts.items():
        numbers = [f"{each['parameters']:,}", f"{each['seconds_per_step']:.3f}", f"{each['steps']:,}"]
        lines.append(f"| {name} | {' | '.join(numbers)} | {each['epochs']:.1f} | {each['minutes']:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
