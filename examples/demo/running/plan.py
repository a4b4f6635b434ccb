"""How the demonstration is trained on this machine: threads and epochs that fit into a few minutes, by measurement."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.files import complete_or_absent
from running.interruption import child

BUDGET = 360.0
"""Seconds that training may take; fewer epochs are trained where the config's number does not fit."""

MIN_EPOCHS = 5
"""Fewer would no longer beat the median clearly, whatever the machine."""


@dataclass(frozen=True)
class Plan:
    """What was measured, and what follows from it.

    Attributes:
        threads: number of OpenMP threads that trains fastest.
        epochs: passes over the training set.
        step_seconds: time of a training step with that many threads.
        predict_seconds: time of the prediction for one structure.
        start_seconds: time until a process has loaded fairchem.
    """

    threads: int
    epochs: int
    step_seconds: float
    predict_seconds: float
    start_seconds: float

    def write(self, path: Path) -> None:
        """Keep the plan for a resumed run."""
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_plan(path: Path) -> Plan | None:
    """The plan that was kept at ``path``, if there is a whole one."""
    try:
        return Plan(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def environment(threads: int | None = None) -> dict[str, str]:
    """What a training needs beside what the user has set.

    By default an OpenMP thread that waits for another one keeps its core busy for milliseconds. Where another process
    wants that core, the threads come to wait for one another in turns, and a step takes ten times as long. Without any
    such waiting, though, two threads gain nothing over one.
    """
    chosen = {} if threads is None else {"OMP_NUM_THREADS": str(threads)}
    return {"GOMP_SPINCOUNT": "1000", **chosen, **os.environ}


def measured_plan(settings: Mapping[str, Any], data: Path, steps_per_epoch: int) -> Plan:
    """Measure a few steps of training with each number of threads, and choose.

    Args:
        settings: keys of the ``model``, of its ``optimizer``, ``batch_size`` and ``max_epochs``.
        data: with the training split.
        steps_per_epoch: number of batches.

    Raises:
        UserError: the steps failed; the process has printed why.
    """
    command = [sys.executable, str(Path(__file__).with_name("speed.py")), json.dumps(settings), str(data)]
    begin = time.perf_counter()
    with child(command, stdout=subprocess.PIPE, env=environment()) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise UserError(f"measuring the speed of training ended with status {process.returncode} (see above)")
    measured = json.loads(printed.splitlines()[-1])
    by_threads = {int(threads): seconds for threads, seconds in measured["threads"].items()}
    threads = best_threads({threads: seconds["step"] for threads, seconds in by_threads.items()})
    seconds = by_threads[threads]
    return Plan(
        threads=threads,
        epochs=epochs_that_fit(seconds["step"] * steps_per_epoch, settings["max_epochs"]),
        step_seconds=seconds["step"],
        predict_seconds=seconds["predict"],
        start_seconds=time.perf_counter() - begin - measured["seconds"],
    )


def best_threads(step_seconds: dict[int, float]) -> int:
    """The number of threads to train with: more only where they save at least a tenth of a step's time."""
    return min(threads for threads, seconds in step_seconds.items() if seconds <= 1.1 * min(step_seconds.values()))


def epochs_that_fit(epoch_seconds: float, max_epochs: int, budget: float = BUDGET) -> int:
    """The config's number of epochs, or as many as fit into ``budget`` (s), but no fewer than ``MIN_EPOCHS``."""
    return min(max_epochs, max(MIN_EPOCHS, math.floor(budget / epoch_seconds)))
