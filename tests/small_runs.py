"""Small training runs for tests: a data set of a few slabs, a config, and a process that trains on them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import preloaded
import pytest
import torch
import yaml
from fairchem.core.common import distutils
from fairchem.core.common.flags import flags
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import build_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.host.fairchem1.runner import Runner
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset
from fairchem_hdgnn.host.fairchem1.trainer import Trainer

TINY_HDGNN = {
    "name": "fairchem_hdgnn.HDGNN",
    "lmax": 2,
    "lmax_metp": 1,
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 8,
    "hidden_channels_far": 4,
    "edge_channels": 8,
    "invariant_channels": 8,
    "num_sphere_samples": 16,
    "distance_resolution": 0.5,
    "cutoff": 4.0,
    "max_neighbors": 8,
    "near_neighbors": 4,
    "frames": "random",
    "readout_init": "random",
    "otf_graph": True,
}

TINY_ESCN = {
    "name": "fairchem_hdgnn.ESCN",
    "lmax": 2,
    "mmax": 1,
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 8,
    "edge_channels": 8,
    "num_sphere_samples": 16,
    "distance_resolution": 0.5,
    "cutoff": 4.0,
    "max_neighbors": 8,
    "frames": "random",
    "readout_init": "random",
    "otf_graph": True,
    "regress_forces": False,
}

STOCK = [str(Path(sys.executable).with_name("fairchem"))]
PLUGIN = [str(Path(sys.executable).with_name("fairchem-hdgnn")), "train"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def model_of(section: Mapping[str, Any], **keys: Any) -> nn.Module:
    """The model of a config's section, with other keys, in evaluation."""
    settings = {**section, **keys}
    return registry.get_model_class(settings.pop("name"))(**settings).eval()


def write_lmdb(path: Path, num_systems: int, seed: int = 0) -> Path:
    """An OC20-like LMDB of random periodic systems with 4 to 9 atoms, and its metadata."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(4, 10, num_systems)
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = lmdb.open(str(path), map_size=1 << 26, subdir=False, meminit=False)
    with environment.begin(write=True) as transaction:
        for index, size in enumerate(sizes):
            transaction.put(f"{index}".encode(), pickle.dumps(_system(rng, int(size), sid=1000 + index)))
        transaction.put(b"length", pickle.dumps(num_systems))
    environment.close()
    np.savez(path.parent / "metadata.npz", natoms=sizes)
    return path


def _system(rng: np.random.Generator, size: int, sid: int) -> Data:
    numbers = rng.choice([1, 8, 29, 78], size)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)
    positions = 2.2 * grid[rng.permutation(27)[:size]] + rng.normal(scale=0.2, size=(size, 3))
    energy = float(np.sin(numbers).sum() + rng.normal(scale=0.1))
    return Data(
        atomic_numbers=torch.tensor(numbers, dtype=torch.float32),
        pos=torch.tensor(positions, dtype=torch.float32),
        cell=torch.tensor(np.eye(3)[None] * 6.6, dtype=torch.float32),
        natoms=size,
        tags=torch.ones(size, dtype=torch.long),
        fixed=torch.zeros(size),
        sid=sid,
        y_init=energy + 0.5,
        y_relaxed=energy,
        pos_relaxed=torch.tensor(positions, dtype=torch.float32),
    )


def write_config(
    folder: Path,
    model: Mapping[str, Any] = TINY_HDGNN,
    trainer: str = "fairchem_hdgnn.Trainer",
    **optim: Any,
) -> Path:
    """Data sets of 24 and 6 systems and a config that trains on them for 3 epochs; ``optim`` overrides its section."""
    train = write_lmdb(folder / "train" / "data.lmdb", 24)
    val = write_lmdb(folder / "val" / "data.lmdb", 6, seed=1)
    source = {"format": "lmdb", "key_mapping": {"y_relaxed": "energy"}}
    config = {
        "trainer": trainer,
        "logger": "tensorboard",
        "task": {},
        "model": dict(model),
        "dataset": {
            "train": {
                **source,
                "src": str(train),
                "transforms": {"normalizer": {"energy": {"mean": 0.5, "stdev": 2.0}}},
            },
            "val": {**source, "src": str(val)},
        },
        "outputs": {"energy": {"level": "system"}},
        "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
        "evaluation_metrics": {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"},
        "optim": {
            "batch_size": 4,
            "eval_batch_size": 4,
            "num_workers": 0,
            "optimizer": "AdamW",
            "optimizer_params": {"weight_decay": 0.01},
            "lr_initial": 2e-3,
            "lr_gamma": 0.3,
            "lr_milestones": [100],
            "warmup_steps": 4,
            "warmup_factor": 0.2,
            "ema_decay": 0.9,
            "clip_grad_norm": 10,
            "max_epochs": 3,
            "eval_every": 6,
            "checkpoint_every": 1,
            **optim,
        },
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def set_keys(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config, changed in place: other values by dotted key; ``...`` removes one."""
    for path, value in changes.items():
        *sections, key = path.split(".")
        part: Any = config
        for section in sections:
            part = part[section]
        if value is ...:
            del part[key]
        else:
            part[key] = value
    return config


def arguments(config: Path, run_id: str, *extra: str) -> list[str]:
    """fairchem's command line for a CPU training of ``config`` in the folder of the config."""
    return [
        "--mode=train", f"--config-yml={config}", f"--run-dir={config.parent}", f"--timestamp-id={run_id}",
        "--cpu", "--seed=3", "--print-every=1", *extra,
    ]  # fmt: skip


def fairchem(config: Path, run_id: str, *extra: str, check: bool = True) -> subprocess.CompletedProcess:
    """Run the stock ``fairchem`` command to its end."""
    return launch(STOCK, config, run_id, *extra, check=check)


def launch(
    command: Sequence[str], config: Path, run_id: str, *extra: str, check: bool = True
) -> subprocess.CompletedProcess:
    """Run any of the commands that take fairchem's options to its end."""
    command = [*command, *arguments(config, run_id, *extra)]
    done = preloaded.run(command, ENVIRONMENT, config.parent)
    if check and done.returncode:
        raise AssertionError(done.stdout[-2000:] + done.stderr[-4000:])
    return done


def train(config: Path, run_id: str, *extra: str) -> None:
    """Run the same training in this process, through the plugin's Runner."""
    distutils.setup_env_local()
    run_here(arguments(config, run_id, *extra))


def run_here(command_line: Sequence[str]) -> None:
    """Run fairchem's command line as the rank that the environment tells, and leave the process ready for the next."""
    args, overrides = flags.get_parser().parse_known_args(command_line)
    runner = Runner()
    try:
        runner(build_config(args, overrides))
    finally:
        distutils.cleanup()
        if hasattr(runner, "trainer"):
            # lmdb opens a file once per process only; safe_lmdb shares it.
            for subset in (runner.trainer.train_dataset, runner.trainer.val_dataset):
                if not isinstance(subset.dataset, SafeLmdbDataset):
                    subset.dataset.env.close()


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int, training: bool = True, batch: int = 1) -> None:
    """Send this process a SIGTERM in the forward pass of a batch of ``step``, or of the evaluation after it."""
    forward, passes = Trainer._forward, []

    def interrupted(self: Trainer, structures: Batch) -> dict[str, torch.Tensor]:
        if self.step == step and self.model.training is training:
            passes.append(step)
            if len(passes) == batch:
                os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, structures)

    monkeypatch.setattr(Trainer, "_forward", interrupted)


def losses(folder: Path, run_id: str, tag: str = "train/loss") -> dict[int, float]:
    """Step -> value in TensorBoard's log of a run; a step repeated after an interruption counts once, the last time."""
    values = {}
    for log in sorted((folder / "logs" / "tensorboard" / run_id).glob("events*")):
        accumulator = EventAccumulator(str(log)).Reload()
        if tag in accumulator.Tags()["scalars"]:
            values.update({event.step: event.value for event in accumulator.Scalars(tag)})
    return values


def load(folder: Path, run_id: str, name: str = "checkpoint.pt") -> dict[str, Any]:
    """The contents of a run's checkpoint, read as data only."""
    return torch.load(folder / "checkpoints" / run_id / name, map_location="cpu", weights_only=True)
