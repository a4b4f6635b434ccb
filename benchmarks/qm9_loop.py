"""A training loop for QM9 on plain tensors, within a budget of seconds; needs torch and the networks, not fairchem.

It follows the shipped configurations: the ``model`` section of a YAML is read as it stands, the loss is the L1 loss on
the standardised target, the optimiser AdamW with gradient clipping and averaged weights. The learning rate warms up
and decays with a cosine over the budget, so every model finishes its schedule in the time it is given.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fairchem_hdgnn.data.qm9_targets import PUBLISHED_MAE, TARGETS
from fairchem_hdgnn.escn.network import ESCNNetwork
from fairchem_hdgnn.hdgnn.network import HDGNNNetwork

GRAPH_KEYS = {"name", "use_pbc", "use_pbc_single", "otf_graph", "max_neighbors", "output_name"}
NETWORKS = {"fairchem_hdgnn.HDGNN": HDGNNNetwork, "fairchem_hdgnn.ESCN": ESCNNetwork}


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        config: YAML of the run; its ``model`` section and target are used.
        data: Folder that ``prepare-qm9`` wrote.
        seconds: Training time, evaluation not counted.
        train_size: Molecules to train on, the first of the training set.
        val_size: Molecules to validate on.
        test_size: Molecules to test on.
        batch_size: Molecules a step.
        learning_rate: Largest learning rate.
        warmup: Fraction of the budget in which the learning rate rises.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        ema_decay: Of the averaged weights, which are the ones evaluated.
        evaluations: Points of the learning curve.
        seed: Of the weights, the order of molecules and the edge frames.
        device: Where to run.
    """

    config: Path
    data: Path
    seconds: float
    train_size: int = 110_000
    val_size: int = 10_000
    test_size: int = 10_831
    batch_size: int = 64
    learning_rate: float = 5e-4
    warmup: float = 0.02
    weight_decay: float = 5e-3
    clip: float = 100.0
    ema_decay: float = 0.999
    evaluations: int = 12
    seed: int = 0
    device: str = "cpu"


@dataclass
class Progress:
    """Where a run stands; ``curve`` has one entry an evaluation."""

    seconds: float = 0.0
    steps: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def read_config(path: Path) -> dict[str, Any]:
    """A YAML with its includes, merged as fairchem does."""
    config = yaml.safe_load(path.read_text())
    merged: dict[str, Any] = {}
    for include in config.pop("includes", []):
        merged = _merge(merged, read_config(path.parent / include))
    return _merge(merged, config)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merge(result[key], value) if both else value
    return result


class Molecules:
    """All molecules on one device, padded to the largest: a batch and its edges are a few indexing operations."""

    def __init__(self, path: Path, target: str, device: str) -> None:
        arrays = np.load(path / "molecules.npz")
        sizes = np.diff(arrays["offsets"])
        member = np.arange(sizes.max()) < sizes[:, None]
        numbers = np.zeros(member.shape, dtype=np.int64)
        positions = np.zeros((*member.shape, 3), dtype=np.float32)
        numbers[member], positions[member] = arrays["numbers"], arrays["positions"]
        self.numbers = torch.from_numpy(numbers).to(device)
        self.positions = torch.from_numpy(positions).to(device)
        column = list(arrays["target_names"]).index(target)
        self.targets = torch.from_numpy(arrays["targets"][:, column]).to(device)
        self.rows = {name: torch.from_numpy(arrays[name]).to(device) for name in ("train", "val", "test")}

    def batch(self, rows: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """Arguments of ``network(...)`` for these molecules."""
        numbers, positions = self.numbers[rows], self.positions[rows]
        member = numbers > 0
        near = torch.cdist(positions, positions) <= cutoff
        near &= member[:, :, None] & member[:, None, :]
        near.diagonal(dim1=1, dim2=2).fill_(False)
        atom = (member.flatten().cumsum(0) - 1).view(member.shape)
        system, target, source = near.nonzero(as_tuple=True)
        edge_index = torch.stack([atom[system, source], atom[system, target]])
        edge_vec = positions[system, source] - positions[system, target]
        return numbers[member], edge_index, edge_vec, member.nonzero()[:, 0], len(rows)


class Session:
    """A run that can be stopped between evaluations and taken up again from its folder."""

    def __init__(self, run: Run, folder: Path) -> None:
        self.run, self.folder = run, folder
        torch.manual_seed(run.seed)
        config = read_config(run.config)
        model = config["model"]
        self.target = TARGETS[model["output_name"]]
        self.molecules = Molecules(run.data, self.target.name, run.device)
        keys = {key: value for key, value in model.items() if key not in GRAPH_KEYS}
        self.network: nn.Module = NETWORKS[model["name"]](keys).to(run.device)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(run.ema_decay), use_buffers=True)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), run.learning_rate, weight_decay=run.weight_decay)
        self.cutoff = float(model["cutoff"])
        self.train_rows = self.molecules.rows["train"][: run.train_size]
        labels = self.molecules.targets[self.train_rows]
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
        total = torch.zeros((), device=run.device)
        end, steps = min(run.seconds, progress.seconds + seconds), 0
        started, spent = time.perf_counter(), progress.seconds
        while progress.seconds < end:
            for group in self.optimiser.param_groups:
                group["lr"] = run.learning_rate * schedule(progress.seconds / run.seconds, run.warmup)
            rows = self.train_rows[next(batches)]
            prediction = self.network(*self.molecules.batch(rows, self.cutoff))["energy"]
            loss = (prediction - ((self.molecules.targets[rows] - self.mean) / self.std).to(prediction)).abs().mean()
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), run.clip)
            self.optimiser.step()
            self.average.update_parameters(self.network)
            total += loss.detach()
            steps += 1
            if run.device != "cpu" and steps % 20 == 0:
                torch.cuda.synchronize()
            progress.seconds = spent + time.perf_counter() - started
        progress.steps += steps
        train_mae = float(total * self.std) / steps * self.target.published_factor
        progress.curve.append({"seconds": progress.seconds, "steps": progress.steps, "train_mae": train_mae})

    def _evaluate(self) -> None:
        point = self.progress.curve[-1]
        point["val_mae"] = self.mae(self.molecules.rows["val"][: self.run.val_size])
        epoch = self.progress.steps * self.run.batch_size / len(self.train_rows)
        print(
            f"{point['seconds']:7.0f} s  epoch {epoch:6.2f}  train MAE {point['train_mae']:8.3f}  "
            f"val MAE {point['val_mae']:8.3f} {self.target.published_unit}",
            flush=True,
        )

    @torch.no_grad()
    def mae(self, rows: Tensor, batch_size: int = 256) -> float:
        """MAE of the averaged weights, in the published unit."""
        self.average.eval()
        total = 0.0
        for part in rows.split(batch_size):
            prediction = (
                self.average(*self.molecules.batch(part, self.cutoff))["energy"].double() * self.std + self.mean
            )
            total += float((prediction - self.molecules.targets[part]).abs().sum())
        return total / len(rows) * self.target.published_factor

    def _result(self) -> dict[str, Any]:
        test = self.molecules.rows["test"][: self.run.test_size]
        baseline = (self.molecules.targets[test] - self.mean).abs().mean() * self.target.published_factor
        return {
            "run": asdict(self.run),
            "target": self.target.name,
            "unit": self.target.published_unit,
            "test_mae": self.mae(test),
            "mean_predictor_test_mae": float(baseline),
            "published_mae": {model: row[self.target.name] for model, row in PUBLISHED_MAE.items()},
            "parameters": sum(parameter.numel() for parameter in self.network.parameters()),
            "epochs": self.progress.steps * self.run.batch_size / len(self.train_rows),
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
        state = torch.load(self.state_file, map_location=self.run.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.progress = Progress(**state["progress"])


def schedule(fraction: float, warmup: float) -> float:
    """Learning rate relative to its largest value when ``fraction`` of the budget is spent."""
    if fraction < warmup:
        return 0.2 + 0.8 * fraction / warmup
    return 0.001 + 0.999 * 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))
