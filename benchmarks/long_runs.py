"""Trainings that take hours and continue over several calls: each has a folder, and a call continues unfinished ones.

A run uses ``fairchem-hdgnn train`` as a user would. At the end of a call, it gets the signal that a scheduler would
send: it writes a checkpoint, from which the next call resumes with identical results.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fairchem_hdgnn.data.splits import split_source
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.evaluation.learning_curve import read_events
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.preemption import PREEMPTED_EXIT_STATUS

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
RESULT = "result.json"
HOURS = "hours.json"
POLL_INTERVAL = 2.0
RUN_ID = "run"
PROGRAM = "import torch; torch.set_flush_denormal(True); from fairchem_hdgnn.cli import main; raise SystemExit(main())"
"""``fairchem-hdgnn``; denormal numbers make steps of fairchem's PaiNN four times as slow on a CPU."""


@dataclass(frozen=True)
class LongRun:
    """One training and its test.

    Attributes:
        folder: of the run.
        config: the YAML to start from, as for ``--config-yml``.
        changes: values by dotted key.
        data: ``data/SPLIT/data.lmdb``.
        tests: splits to predict at the end.
        seed: of weights, order and frames.
        facts: kept with the result.
    """

    folder: Path
    config: str
    changes: Mapping[str, Any]
    data: Path
    tests: Sequence[str]
    seed: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoints(self) -> Path:
        """Where the trainer puts them."""
        return self.folder / "checkpoints" / RUN_ID

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out, once the run is done."""
        path = self.folder / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def go_on(self, deadline: float) -> None:
        """Train until it is done or ``deadline`` (of ``time.monotonic``); test in the first case.

        Raises:
            SystemExit: the training failed; names its log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "config.yml"
        if not path.is_file():
            path.write_text(yaml.safe_dump(changed(read_config(self.config), self.changes), sort_keys=False))
        command = [sys.executable, "-c", PROGRAM, "train", "--mode", "train", "--config-yml", str(path)]
        command += ["--run-dir", str(self.folder), "--timestamp-id", RUN_ID, "--seed", str(self.seed)]
        command += [] if gpu_is_there() else ["--cpu"]
        last = self.checkpoints / "checkpoint.pt"
        command += ["--checkpoint", str(last)] if last.is_file() else []
        log = self.folder / "train.log"
        before = self._hours
        started = time.monotonic()
        with log.open("a") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env=ONE_THREAD, start_new_session=True)
            asked = False
            while (status := process.poll()) is None:
                time.sleep(POLL_INTERVAL)
                # Not only at the end, because a call can be killed.
                self._note_hours(before + (time.monotonic() - started) / 3600)
                if not asked and time.monotonic() >= deadline:
                    process.send_signal(signal.SIGTERM)
                    asked = True
        if status == 0:
            self._test()
        elif status not in (PREEMPTED_EXIT_STATUS, -signal.SIGTERM):
            raise SystemExit(f"{self.folder}: the training ended with status {status}; see {log}")

    @property
    def _hours(self) -> float:
        """Of all calls so far."""
        path = self.folder / HOURS
        return json.loads(path.read_text()) if path.is_file() else 0.0

    def _note_hours(self, hours: float) -> None:
        (self.folder / HOURS).write_text(json.dumps(hours))

    def _test(self) -> None:
        """Predict with the averaged weights of the last step, in eV or the unit of the records."""
        sources = {split: split_source(self.data, split) for split in self.tests}
        options = InferenceOptions(cpu=not gpu_is_there(), batch_size=32, seed=0, progress=False)
        predictions = predict_splits(self.checkpoints / "checkpoint.pt", sources, options)
        errors = {
            split: dict(zip(map(str, each.ids), map(float, each.energy - each.labels)))
            for split, each in predictions.items()
            if each.labels is not None
        }
        curve = read_events(self.folder / "logs/tensorboard" / RUN_ID).get("val/energy_mae")
        result = {
            **self.facts,
            "seed": self.seed,
            "parameters": trained_parameters(self.checkpoints / "checkpoint.pt"),
            "mae": {split: float(np.mean(np.abs(list(each.values())))) for split, each in errors.items()},
            "errors": errors,
            "curve": [] if curve is None else [curve.steps.tolist(), curve.values.tolist()],
            "hours": self._hours,
        }
        (self.folder / RESULT).write_text(json.dumps(result) + "\n")


def trained_parameters(checkpoint: Path) -> int:
    """Number of parameters that Adam has updated."""
    import torch  # noqa: PLC0415 - slow to import, and the pages are written without

    optimizer = torch.load(checkpoint, map_location="cpu", weights_only=True)["optimizer"]
    return sum(state["exp_avg"].numel() for state in optimizer["state"].values())


def changed(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The config with other values by dotted key; those of None are removed."""
    for key, value in changes.items():
        *sections, name = key.split(".")
        part: Any = config
        for section in sections:
            part = part.setdefault(section, {})
        if value is None:
            part.pop(name, None)
        else:
            part[name] = value
    return config


def schedule(batches: int, epochs: int, *, evaluations: int = 12) -> dict[str, Any]:
    """Changes for a training of so many epochs, evaluated so often, with a checkpoint at least every 1,000 steps."""
    steps = batches * epochs
    return {
        "optim.max_epochs": epochs,
        "optim.total_steps": steps + 1,
        "optim.eval_every": max(batches, steps // evaluations),
        "optim.checkpoint_every": min(batches, 1000),
    }


def gpu_is_there() -> bool:
    """Whether to train on it."""
    import torch  # noqa: PLC0415 - slow to import, and the pages are written without

    return torch.cuda.is_available()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of :func:`continue_runs`."""
    parser.add_argument("out", type=Path, help="folder of the runs; what is done in it is kept")
    parser.add_argument("--hours", type=float, default=2.0, help="of this call (default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="runs at once, a thread each (default: %(default)s)")


def continue_runs(runs: Sequence[LongRun], hours: float, processes: int, report: Callable[[], None]) -> None:
    """Continue unfinished ``runs``, in order, for ``hours``; call ``report`` after each, and print all results."""
    deadline = time.monotonic() + 3600 * hours

    def one(run: LongRun) -> None:
        if run.result is None and time.monotonic() < deadline:
            print(f"{time.strftime('%H:%M:%S')} {run.folder}: {where(run)}", flush=True)
            run.go_on(deadline)
            print(f"{time.strftime('%H:%M:%S')} {run.folder}: {where(run)}", flush=True)
            report()

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(one, runs))
    report()
    for run in runs:
        print(f"{run.folder.name:45} {where(run)}")


def where(run: LongRun) -> str:
    """How far a run is; errors in the unit of the records."""
    if run.result is not None:
        return "done, MAE " + ", ".join(f"{split} {mae:.4g}" for split, mae in run.result["mae"].items())
    folder = run.folder / "logs/tensorboard" / RUN_ID
    if not any(folder.glob("events*")):
        return "not begun"
    curve = read_events(folder).get("val/energy_mae")
    return "begun" if curve is None else f"step {curve.steps[-1]:,.0f}, validation MAE {curve.values[-1]:.4g}"
