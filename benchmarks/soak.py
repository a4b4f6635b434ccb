"""Memory leak test of a long training: ``python benchmarks/soak.py [--minutes 20]``.

Trains a small HDGNN on structures of 4 to 60 atoms, in batches of different sizes, with the full trainer (LMDB, data
loader, EMA, validation, checkpoints), and records the resident memory of the process. The first 500 steps fill the
allocator's pools. After them, memory must stay within 2 %; otherwise the exit status is 1. The run has at least 2,000
steps.

On a CPU, torch caches up to 1,024 oneDNN primitives, one for each new shape. With varying sizes it takes thousands of
steps to fill this cache: about 300 MB that are not a leak but would hide one. So the run limits the cache to 8.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

os.environ.update(LRU_CACHE_CAPACITY="8", ONEDNN_PRIMITIVE_CACHE_CAPACITY="8")

import torch
from fairchem.core.common import distutils
from fairchem.core.common.registry import registry
from process_memory import resident_kib
from torch_geometric.data import Data
from tqdm import tqdm

from fairchem_hdgnn import Trainer
from fairchem_hdgnn.host.fairchem1.runner import Runner
from fairchem_hdgnn.host.schedules import Cadence

WARM_UP, LEAST_STEPS, EVERY = 500, 2000, 20
TOLERANCE = 0.02
MODEL = {
    "name": "fairchem_hdgnn.HDGNN",
    "lmax": 3,
    "num_layers": 2,
    "sphere_channels": 8,
    "hidden_channels": 16,
    "edge_channels": 16,
    "invariant_channels": 16,
    "num_sphere_samples": 32,
    "cutoff": 5.0,
    "max_neighbors": 12,
}


class FinishedError(Exception):
    """Long enough."""


@registry.register_trainer("soak")
class SoakTrainer(Trainer):
    """Takes note of the memory, and stops when the time is up."""

    seconds = 0.0
    memory: dict[int, float]

    def train(self, disable_eval_tqdm: bool = True) -> None:
        """Train with a progress bar."""
        type(self).memory = {}
        self._start = time.monotonic()
        with tqdm(total=LEAST_STEPS, unit="step") as self._bar:
            super().train(disable_eval_tqdm=True)

    def _after_step(self, cadence: Cadence) -> None:
        super()._after_step(cadence)
        self._bar.update()
        if self.step % EVERY == 0:
            self.memory[self.step] = resident_kib() * 1024 / 1e6
            self._bar.set_postfix_str(f"{self.memory[self.step]:.0f} MB")
        if self.step >= LEAST_STEPS and time.monotonic() - self._start > self.seconds:
            raise FinishedError


def write_lmdb(path: Path, num_systems: int, rng: np.random.Generator) -> str:
    """Random periodic structures; 4 to 60 atoms."""
    path.parent.mkdir(parents=True)
    sizes = rng.integers(4, 61, num_systems)
    with lmdb.open(str(path), map_size=1 << 28, subdir=False) as environment, environment.begin(write=True) as records:
        for index, size in enumerate(sizes):
            sites = np.stack(np.meshgrid(*[np.arange(4)] * 3), -1).reshape(-1, 3)[rng.permutation(64)[:size]]
            positions = torch.tensor(2.5 * sites + rng.normal(scale=0.2, size=(size, 3)), dtype=torch.float32)
            system = Data(
                atomic_numbers=torch.tensor(rng.choice([1, 6, 8, 29, 78], size), dtype=torch.float32),
                pos=positions,
                cell=10.0 * torch.eye(3)[None],
                natoms=int(size),
                tags=torch.ones(size, dtype=torch.long),
                fixed=torch.zeros(size),
                sid=index,
                y_relaxed=float(rng.normal()),
            )
            records.put(f"{index}".encode(), pickle.dumps(system))
        records.put(b"length", pickle.dumps(num_systems))
    np.savez(path.parent / "metadata.npz", natoms=sizes)
    return str(path)


def config(folder: Path) -> dict[str, Any]:
    """A fairchem config, as its command line would make it."""
    rng = np.random.default_rng(0)
    source = {"format": "lmdb", "key_mapping": {"y_relaxed": "energy"}}
    return {
        "trainer": "soak",
        "model": MODEL,
        "logger": "tensorboard",
        "task": {},
        "dataset": {
            "train": {**source, "src": write_lmdb(folder / "train" / "data.lmdb", 500, rng)},
            "val": {**source, "src": write_lmdb(folder / "val" / "data.lmdb", 20, rng)},
        },
        "outputs": {"energy": {"level": "system"}},
        "loss_functions": [{"energy": {"fn": "mae", "coefficient": 1}}],
        "evaluation_metrics": {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"},
        "optim": {
            "batch_size": 4,
            "eval_batch_size": 4,
            "num_workers": 0,
            "lr_initial": 1e-4,
            "lr_gamma": 0.3,
            "lr_milestones": [10**9],
            "warmup_steps": 10,
            "warmup_factor": 0.2,
            "ema_decay": 0.99,
            "max_epochs": 10**6,
            "eval_every": 250,
            "checkpoint_every": 100,
        },
        **{"mode": "train", "cpu": True, "world_size": 1, "distributed_backend": "gloo", "submit": False},
        **{"summit": False, "amp": False, "checkpoint": None, "gp_gpus": None, "is_debug": False, "seed": 0},
        **{"identifier": "soak", "timestamp_id": "soak", "run_dir": str(folder), "print_every": 10**9},
    }


def verdict(memory: dict[int, float]) -> tuple[bool, str]:
    """Whether the memory stayed, and the numbers."""
    steps = np.array([step for step in memory if step > WARM_UP])
    values = np.array([memory[step] for step in steps])
    slope = float(np.polyfit(steps, values, 1)[0]) * 1000
    quarter = max(1, len(values) // 4)
    first, last = values[:quarter].mean(), values[-quarter:].mean()
    stayed = last <= (1 + TOLERANCE) * first
    return stayed, (
        f"{steps[-1]} steps. Resident memory after step {WARM_UP}: first quarter {first:.1f} MB, last quarter "
        f"{last:.1f} MB ({100 * (last / first - 1):+.2f} %), slope {slope:+.2f} MB per 1,000 steps: "
        f"{'stays' if stayed else 'GROWS'}"
    )


def main() -> int:
    """Run, print, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    SoakTrainer.seconds = 60 * parser.parse_args().minutes
    torch.set_num_threads(1)
    distutils.setup_env_local()
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        try:
            Runner()(config(Path(folder)))
        except FinishedError:
            pass
        finally:
            distutils.cleanup()
    stayed, text = verdict(SoakTrainer.memory)
    print(text)
    return 0 if stayed else 1


if __name__ == "__main__":
    sys.exit(main())
