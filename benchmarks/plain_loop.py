"""A training loop on plain tensors, within a budget of seconds; needs torch and the networks, not fairchem.

It follows the shipped configurations: the loss is the L1 loss on the standardised target, the optimiser AdamW with
gradient clipping and averaged weights. The learning rate warms up and decays with a cosine over the budget, so every
model finishes its schedule within its time.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.models.so3.frame_source import set_step


class Structures(Protocol):
    """Labelled structures on one device.

    Attributes:
        targets: label of each structure.
        rows: structures of each split, ``train`` and ``val`` among them.
    """

    targets: Tensor
    rows: dict[str, Tensor]

    def batch(self, rows: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Arguments of ``network(...)`` for these structures; ``cutoff`` in Å."""


@dataclass(frozen=True)
class Task:
    """What to learn.

    Attributes:
        name: of the target.
        unit: in which errors are reported.
        factor: from the unit of the labels to that one.
        structures: the data.
        cutoff: Å.
        val: split to validate on.
        tests: splits to test on at the end.
        published: what others reached, in ``unit``.
    """

    name: str
    unit: str
    factor: float
    structures: Structures
    cutoff: float
    val: str
    tests: tuple[str, ...]
    published: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        seconds: Training time, evaluation not counted.
        train_size: Structures to train on, the first of the training set; all if absent.
        val_size: Structures to validate on; all if absent.
        test_size: Structures of each split to test on; all if absent.
        batch_size: Structures a step.
        learning_rate: Largest learning rate.
        warmup: Fraction of the budget in which the learning rate rises.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        ema_decay: Of the averaged weights, which are the ones evaluated.
        evaluations: Points of the learning curve.
        seed: Of the weights, the order of structures and the edge frames.
        precision: As ``optim.precision``.
    """

    seconds: float
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup: float = 0.02
    weight_decay: float = 5e-3
    clip: float = 100.0
    ema_decay: float = 0.999
    evaluations: int = 12
    seed: int = 0
    precision: str = "float32"


@dataclass
class Progress:
    """Where a run stands; ``curve`` has one entry an evaluation."""

    seconds: float = 0.0
    steps: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


class Session:
    """A run that can be stopped between evaluations and taken up again from its folder.

    Args:
        run: how to train.
        task: what to learn.
        network: the model, on the device of the data; make it after ``torch.manual_seed(run.seed)``.
        folder: for ``state.pt`` and ``result.json``.
    """

    def __init__(self, run: Run, task: Task, network: nn.Module, folder: Path) -> None:
        self.run, self.task, self.network, self.folder = run, task, network, folder
        self.targets, self.rows = task.structures.targets, task.structures.rows
        self.device = self.targets.device
        self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(run.ema_decay), use_buffers=True)
        self.optimiser = torch.optim.AdamW(network.parameters(), run.learning_rate, weight_decay=run.weight_decay)
        self.train_rows = self.rows["train"][: run.train_size]
        labels = self.targets[self.train_rows]
        self.mean, self.std = labels.mean(), labels.std()
        self.progress = Progress()
        if self.state_file.exists():
            self._load()

    @property
    def state_file(self) -> Path:
        """Weights, optimiser and progress after the last evaluation."""
        return self.folder / "state.pt"

    def train(self, stop_after: float = math.inf) -> dict[str, Any] | None:
        """Train until the budget is spent, then test; the result is also in ``result.json``.

        Args:
            stop_after: Stop at the first evaluation after so many seconds of wall-clock time; then None is returned.
        """
        began = time.perf_counter()
        interval = self.run.seconds / self.run.evaluations
        batches = self._batches()
        while self.progress.seconds < self.run.seconds:
            self._train_for(interval, batches)
            self._evaluate()
            self._save()
            if time.perf_counter() - began > stop_after and self.progress.seconds < self.run.seconds:
                return None
        result = self._result()
        (self.folder / "result.json").write_text(json.dumps(result, indent=2, default=str) + "\n")
        return result

    def _batches(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.run.seed + self.progress.steps)
        while True:
            order = torch.randperm(len(self.train_rows), generator=generator).to(self.train_rows.device)
            yield from order.split(self.run.batch_size)[: max(1, len(order) // self.run.batch_size)]

    def _train_for(self, seconds: float, batches: Iterator[Tensor]) -> None:
        run, progress = self.run, self.progress
        self.network.train()
        total = torch.zeros((), device=self.device)
        end, steps = min(run.seconds, progress.seconds + seconds), 0
        started, spent = time.perf_counter(), progress.seconds
        while progress.seconds < end:
            for group in self.optimiser.param_groups:
                group["lr"] = run.learning_rate * schedule(progress.seconds / run.seconds, run.warmup)
            rows = self.train_rows[next(batches)]
            prediction = self._predict(self.network, rows)
            loss = (prediction - ((self.targets[rows] - self.mean) / self.std).to(prediction)).abs().mean()
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), run.clip)
            self.optimiser.step()
            self.average.update_parameters(self.network)
            total += loss.detach()
            steps += 1
            if self.device.type != "cpu" and steps % 20 == 0:
                torch.cuda.synchronize()
            progress.seconds = spent + time.perf_counter() - started
        progress.steps += steps
        train_mae = float(total * self.std) / steps * self.task.factor
        progress.curve.append({"seconds": progress.seconds, "steps": progress.steps, "train_mae": train_mae})

    def _predict(self, network: nn.Module, rows: Tensor) -> Tensor:
        """Standardised energies."""
        with Precision(self.run.precision).autocast(self.device):
            return network(*self.task.structures.batch(rows, self.task.cutoff))["energy"].float()

    def _evaluate(self) -> None:
        point = self.progress.curve[-1]
        point["val_mae"] = self.mae(self.rows[self.task.val][: self.run.val_size])
        print(
            f"{point['seconds']:7.0f} s  epoch {self.epochs:6.2f}  train MAE {point['train_mae']:8.3f}  "
            f"val MAE {point['val_mae']:8.3f} {self.task.unit}",
            flush=True,
        )

    @property
    def epochs(self) -> float:
        """So far."""
        return self.progress.steps * self.run.batch_size / len(self.train_rows)

    @torch.no_grad()
    def mae(self, rows: Tensor, batch_size: int = 256) -> float:
        """MAE of the averaged weights, in the task's unit."""
        self.average.eval()
        total = 0.0
        for part in rows.split(batch_size):
            prediction = self._predict(self.average, part).double() * self.std + self.mean
            total += float((prediction - self.targets[part]).abs().sum())
        return total / len(rows) * self.task.factor

    def _result(self) -> dict[str, Any]:
        tests = {name: self.rows[name][: self.run.test_size] for name in self.task.tests}
        return {
            "run": asdict(self.run),
            "target": self.task.name,
            "unit": self.task.unit,
            "train_size": len(self.train_rows),
            "test_mae": {name: self.mae(rows) for name, rows in tests.items()},
            "mean_predictor_mae": {
                name: float((self.targets[rows] - self.mean).abs().mean()) * self.task.factor
                for name, rows in tests.items()
            },
            "published_mae": self.task.published,
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "epochs": self.epochs,
            **asdict(self.progress),
        }

    def _save(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.state_file.with_suffix(".tmp")
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "progress": asdict(self.progress),
        }
        torch.save(state, temporary)
        temporary.replace(self.state_file)

    def _load(self) -> None:
        state = torch.load(self.state_file, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])
        set_step(self.network, self.progress.steps)


def schedule(fraction: float, warmup: float) -> float:
    """Learning rate relative to its largest value when ``fraction`` of the budget is spent."""
    if fraction < warmup:
        return 0.2 + 0.8 * fraction / warmup
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))
