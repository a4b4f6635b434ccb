"""Small data sets and checkpoints for the tests of evaluation."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import numpy as np
import torch
import yaml
from ase.build import add_adsorbate, fcc111
from fairchem.core._cli import runner_wrapper
from fairchem.core.common.distutils import setup_env_local
from fairchem.core.common.flags import flags
from fairchem.core.common.utils import build_config

from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.records import atoms_to_record
from fairchem_hdgnn.evaluation.splits import SUFFIXES

METALS = ("Cu", "Pd", "Pt")
SIZES = {"train": 24, "id": 9, "ood_ads": 7, "ood_cat": 8, "ood_both": 5}


def make_records(num: int, first_sid: int, seed: int, *, labels: bool = True, frames: bool = False) -> list:
    """Slabs with one adsorbed atom or pair; labels are a smooth function of structure, without meaning."""
    random = np.random.default_rng(seed)
    records = []
    for index in range(num):
        metal, adsorbate = random.choice(METALS), random.choice(["H", "O", "OH"])
        atoms = fcc111(metal, (2, 2, 2), vacuum=5.0)
        add_adsorbate(atoms, adsorbate[0], 1.2 + random.random(), "ontop")
        if adsorbate == "OH":
            add_adsorbate(atoms, "H", 2.8, "bridge")
        tags = np.where(np.arange(len(atoms)) < 4, 0, np.where(np.arange(len(atoms)) < 8, 1, 2))
        atoms.set_tags(tags)
        record = atoms_to_record(atoms, first_sid + index)
        record.fixed = torch.tensor((tags == 0).astype(np.float32))
        if labels:
            record.y_relaxed = float(-1 + METALS.index(metal) / 2 + 0.3 * len(adsorbate) + 0.1 * random.normal())
            record.pos_relaxed = record.pos + 0.05
        if frames:
            record.fid = index % 3
            record.energy, record.forces = float(random.normal()), torch.randn(len(atoms), 3)
        records.append(record)
    return records


def write_splits(root: Path, *, prefix: str = "val", labels: bool = True, frames: bool = False) -> Path:
    """``train`` and the four splits in OC20's layout."""
    for position, (name, num) in enumerate(SIZES.items()):
        folder = root / (name if name == "train" else f"{prefix}_{name}")
        folder.mkdir(parents=True)
        keep = labels or name == "train"
        write_lmdb(
            folder, make_records(num, 1000 * (position + 1), position, labels=keep and not frames, frames=frames)
        )
    return root


def schnet_config(root: Path, *, forces: bool = False) -> dict:
    """A configuration of fairchem's own SchNet small enough to train in seconds."""
    outputs: dict = {"energy": {"level": "system", "prediction_dtype": "float32"}}
    losses: list = [{"energy": {"fn": "mae", "coefficient": 1}}]
    metrics: dict = {"energy": ["mae"]}
    mapping = {} if forces else {"key_mapping": {"y_relaxed": "energy"}}
    if forces:
        outputs["forces"] = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
        losses.append({"forces": {"fn": "l2mae", "coefficient": 1}})
        metrics["forces"] = ["mae"]
    return {
        "trainer": "ocp",
        "logger": "tensorboard",
        "dataset": {
            "train": {
                "src": str(root / "train/data.lmdb"),
                "format": "lmdb",
                "transforms": {"normalizer": {"energy": {"mean": 0.0, "stdev": 1.0}}},
                **mapping,
            },
            "val": {"src": str(root / "val_id/data.lmdb")},
        },
        "outputs": outputs,
        "loss_functions": losses,
        "evaluation_metrics": {"metrics": metrics, "primary_metric": "energy_mae"},
        "model": {
            "name": "schnet",
            "hidden_channels": 16,
            "num_filters": 16,
            "num_interactions": 1,
            "num_gaussians": 12,
            "cutoff": 4.0,
            "use_pbc": True,
            "regress_forces": forces,
            "otf_graph": True,
        },
        "optim": {
            "batch_size": 6,
            "eval_batch_size": 4,
            "num_workers": 0,
            "load_balancing": "atoms",
            "load_balancing_on_error": "warn_and_no_balance",
            "lr_initial": 0.01,
            "ema_decay": 0.9,
            "warmup_steps": 1,
            "warmup_factor": 0.5,
            "lr_gamma": 0.5,
            "lr_milestones": [100],
            "max_epochs": 2,
            "clip_grad_norm": 10,
        },
    }


def fairchem(*arguments: str, folder: Path) -> None:
    """What stock ``fairchem`` does on one CPU, in this process."""
    parser = flags.get_parser()
    args, overrides = parser.parse_known_args(["--cpu", "--run-dir", str(folder), *arguments])
    setup_env_local()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        runner_wrapper(build_config(args, overrides))
    gc.collect()


def train(folder: Path, config: dict, identifier: str) -> Path:
    """Train with stock fairchem; the folder with ``checkpoint.pt`` and ``best_checkpoint.pt``."""
    path = folder / f"{identifier}.yml"
    path.write_text(yaml.safe_dump(config))
    fairchem("--mode", "train", "--config-yml", str(path), "--timestamp-id", identifier, folder=folder)
    return folder / "checkpoints" / identifier


def submission_arrays(sizes: dict[str, int] | None = None, *, forces: bool = False) -> dict[str, np.ndarray]:
    """A faultless submission, with three free atoms a system."""
    random = np.random.default_rng(0)
    arrays = {}
    for position, suffix in enumerate(SUFFIXES):
        num = (sizes or SIZES)[suffix]
        ids = [str(1000 * (position + 2) + index) for index in range(num)]
        arrays[f"{suffix}_ids"] = np.array([f"{sid}_0" for sid in ids] if forces else ids)
        arrays[f"{suffix}_energy"] = random.normal(-1.5, 2.0, num).astype(np.float32)
        if forces:
            arrays[f"{suffix}_forces"] = random.normal(0, 1, (3 * num, 3)).astype(np.float32)
            arrays[f"{suffix}_chunk_idx"] = np.cumsum(np.full(num, 3))[:-1]
    return arrays
