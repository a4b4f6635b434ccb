"""Trainings through stock ``fairchem -c``, and what they printed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

from fc2_data import SPLITS, tiny_network
from fc2_data_configs import IS2RE

import fairchem_hdgnn

STOCK = str(Path(sys.executable).with_name("fairchem"))
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Runs begin in another folder, where a relative path does not lead here.
    "PYTHONPATH": str(Path(fairchem_hdgnn.__file__).parents[1]),
}


def train(folder: Path, data: Path, name: str, *overrides: str, config: str = "demo/hdgnn.yml") -> str:
    """Train a tiny HDGNN on 6 batches an epoch; what the command printed.

    Args:
        folder: for runs.
        data: as the fixture ``oc20`` makes it.
        name: of the run, ``job.timestamp_id``.
        overrides: more of them.
        config: relative to those of IS2RE.
    """
    command = [
        STOCK, "-c", str(IS2RE / config), f"job.run_dir={folder}", f"+job.timestamp_id={name}",
        *(f"data.{split}={data / split / 'data.lmdb'}" for split in SPLITS), "data.mean=0.5", "data.stdev=1.0",
        "job.device_type=CPU", "optim.batch_size=4", "optim.eval_batch_size=4", "optim.eval_every=null",
        "optim.num_workers=0", "optim.checkpoint_every=5", "optim.lr=0.02",
        "runner.train_eval_unit.print_every=1", *tiny_network(), *overrides,
    ]  # fmt: skip
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, cwd=folder)
    printed = done.stdout + done.stderr
    assert done.returncode == 0, printed[-4000:]
    return printed


def losses(printed: str) -> dict[int, float]:
    """Step -> loss of the training batch."""
    found = (ast.literal_eval(line) for line in re.findall(r"\{'train/loss'.*?\}", printed))
    return {entry["train/step"]: entry["train/loss"] for entry in found}


def validations(printed: str) -> list[dict[str, float]]:
    """Metrics of each evaluation, in order."""
    blocks = re.findall(r"Finished aggregating metrics: \n((?:  .*\n)+)", printed)
    return [
        {name: float(value) for name, value in (line.strip().split(": ") for line in block.splitlines())}
        for block in blocks
    ]
