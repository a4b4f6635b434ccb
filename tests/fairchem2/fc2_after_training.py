"""Short trainings with stock ``fairchem -c`` on a few slabs."""

from __future__ import annotations

import contextlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase.build import add_adsorbate, fcc111
from ase.db import connect

SIZES: dict[str, Any] = {
    "num_layers": 1, "sphere_channels": 4, "hidden_channels": 6, "edge_channels": 4, "max_num_elements": 80,
    "num_sphere_samples": 20, "max_neighbors": 12, "cutoff": 4.5, "distance_resolution": 0.5, "lmax": 2,
    "readout_init": "random",
}  # fmt: skip
BACKBONES = {
    "hdgnn": {**SIZES, "model": "fairchem_hdgnn.HDGNNBackbone", "lmax_metp": 1, "invariant_channels": 4},
    "escn": {**SIZES, "model": "fairchem_hdgnn.ESCNBackbone", "mmax": 1},
}
NORMALIZER = "fairchem.core.modules.normalization.normalizer.Normalizer"


def write_slabs(folder: Path, count: int = 6) -> Path:
    """Slabs with an atom on them and random energies, as ``ase_db``."""
    folder.mkdir(parents=True)
    random, natoms = np.random.default_rng(0), []
    with connect(str(folder / "data.aselmdb"), type="aselmdb") as database:
        for index in range(count):
            atoms = fcc111(random.choice(["Cu", "Pt"]), (2, 2, 2), vacuum=6.0, periodic=True)
            add_adsorbate(atoms, "O", float(random.uniform(1, 1.6)), "fcc")
            database.write(atoms, data={"sid": str(index), "energy": float(random.normal(-1.5, 2.0))})
            natoms.append(len(atoms))
    np.savez(folder / "metadata.npz", natoms=np.array(natoms))
    return folder


def training(name: str, data: Path, runs: Path) -> dict[str, Any]:
    """A config of two epochs, with averages that differ from the weights."""
    unit, transforms = "fairchem.core.units.mlip_unit.mlip_unit", {"common_transform": {"dataset_name": "oc20"}}
    task = {
        "_target_": f"{unit}.Task", "name": "relaxed_energy", "level": "system", "property": "energy",
        "loss_fn": {
            "_target_": "fairchem.core.modules.loss.DDPMTLoss",
            "loss_fn": {"_target_": "fairchem.core.modules.loss.MAELoss"},
            "reduction": "mean",
        },
        "out_spec": {"dim": [1], "dtype": "float32"},
        "normalizer": {"_target_": NORMALIZER, "mean": -1.525, "rmsd": 2.279},
        "datasets": ["oc20"], "metrics": ["mae"],
    }  # fmt: skip
    records = {"splits": {"train": {"src": [str(data)]}}, "format": "ase_db", "transforms": transforms}
    loader = {
        "_target_": "fairchem.core.components.common.dataloader_builder.get_dataloader",
        "dataset": {
            "_target_": "fairchem.core.datasets.mt_concat_dataset.create_concat_dataset",
            "dataset_configs": {"oc20": {**records, "key_mapping": {"energy": "relaxed_energy"}}},
            "combined_dataset_config": {"sampling": {"type": "temperature", "temperature": 1.0}},
        },
        "batch_sampler_fn": {
            "_target_": "fairchem.core.common.data_parallel.BalancedBatchSampler", "_partial_": True,
            "batch_size": 3, "shuffle": False, "seed": 0,
        },
        "num_workers": 0,
        "collate_fn": {"_target_": f"{unit}.mt_collater_adapter", "tasks": "${tasks}"},
    }  # fmt: skip
    return {
        "job": {
            "device_type": "CPU", "scheduler": {"mode": "LOCAL", "ranks_per_node": 1, "num_nodes": 1}, "debug": True,
            "run_dir": str(runs), "run_name": name, "timestamp_id": name, "seed": 0,
        },
        "tasks": [task],
        "runner": {
            "_target_": "fairchem.core.components.train.train_runner.TrainEvalRunner",
            "train_dataloader": loader,
            "eval_dataloader": loader,
            "train_eval_unit": {
                "_target_": f"{unit}.MLIPTrainEvalUnit", "job_config": "${job}", "tasks": "${tasks}",
                "model": {
                    "_target_": "fairchem_hdgnn.HydraModel",
                    "backbone": BACKBONES[name],
                    "heads": {"relaxed_energy": {"module": BACKBONES[name]["model"].replace("Backbone", "EnergyHead")}},
                },
                "optimizer_fn": {"_target_": "torch.optim.AdamW", "_partial_": True, "lr": 0.01, "weight_decay": 0.001},
                "cosine_lr_scheduler_fn": {
                    "_target_": f"{unit}._get_consine_lr_scheduler", "_partial_": True, "warmup_factor": 0.2,
                    "warmup_epochs": 0.1, "lr_min_factor": 0.01, "epochs": 2,
                },
                "print_every": 100, "clip_grad_norm": 100, "ema_decay": 0.5,
            },
            "max_epochs": 2,
            "callbacks": [{
                "_target_": "fairchem.core.components.callbacks.TrainCheckpointCallback",
                "checkpoint_every_n_steps": 50,
            }],
        },
    }  # fmt: skip


def train(name: str, folder: Path) -> Path:
    """Train in this process, as ``fairchem -c`` does; the ``inference_ckpt.pt`` that it wrote."""
    from fairchem.core._cli import main  # noqa: PLC0415  takes seconds to import

    config = folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(training(name, write_slabs(folder / "data" / name), folder)))
    before, threads = sys.argv, torch.get_num_threads()
    sys.argv = ["fairchem", "-c", str(config)]
    try:
        with contextlib.suppress(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            main()
    finally:
        sys.argv = before
        torch.set_num_threads(threads)
    return folder / name / "checkpoints" / "final" / "inference_ckpt.pt"
