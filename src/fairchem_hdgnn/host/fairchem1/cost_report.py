"""Report the cost of training a config on OC20."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.cost import Cost, Gpu, predict_cost
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.fairchem1.models import ESCN, HDGNN, PlainModel
from fairchem_hdgnn.host.fairchem1.names import dotted_name
from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.hdgnn.config import HDGNNConfig

MODELS: dict[str, tuple[type[PlainModel], Any]] = {
    "fairchem_hdgnn.HDGNN": (HDGNN, HDGNNConfig),
    "fairchem_hdgnn.ESCN": (ESCN, ESCNConfig),
}

DATA_SETS = {"OC20 IS2RE all": 460_328, "OC20 S2EF 2M": 2_000_000}
"""Training structures."""

AVERAGE_ATOMS = 73
"""Mean atoms per OC20 structure; they have 7 to 225 (Gasteiger et al., GemNet-OC, 2022)."""


@dataclass(frozen=True)
class Report:
    """The cost of training a config.

    Attributes:
        name: name of the model.
        batch_size: structures per GPU in a batch.
        accumulate: batches per optimiser step.
        neighbors: edges into each atom.
        structure: cost of a step on one average structure.
        batch: cost of a step on a batch of them.
        gpu: GPU type.
        num_gpus: number of GPUs.
        precision: precision of the networks.
    """

    name: str
    batch_size: int
    accumulate: int
    neighbors: int
    structure: Cost
    batch: Cost
    gpu: Gpu
    num_gpus: int
    precision: Precision

    @property
    def step_seconds(self) -> float:
        """Forward and backward passes, and the optimizer, which reads and writes its state once."""
        return self.accumulate * self.batch.seconds + 2e-12 * self.batch.weight_bytes / self.gpu.bandwidth

    @property
    def memory_bytes(self) -> float:
        """Weights with optimizer state, and the activations of a batch."""
        return self.batch.weight_bytes + self.batch.activation_bytes

    @property
    def effective_batch_size(self) -> int:
        """Structures per optimiser step."""
        return self.batch_size * self.accumulate * self.num_gpus

    def hours(self, num_structures: int) -> float:
        """Lower bound of the time of an epoch."""
        return num_structures / self.effective_batch_size * self.step_seconds / 3600

    def lines(self) -> Iterator[tuple[str, str]]:
        """Headings and texts of the report."""
        one, edges = self.structure, AVERAGE_ATOMS * self.neighbors
        yield "model", f"{self.name}, {one.parameters:,.0f} parameters"
        yield "structure", f"{AVERAGE_ATOMS} atoms (average of OC20), {edges:,} edges ({self.neighbors} into each atom)"
        yield "per edge", f"{one.forward_flops / edges / 1e6:,.2f} MFLOP forward, including work on atoms"
        yield (
            "per structure",
            f"{one.forward_flops / 1e9:,.1f} GFLOP forward, {one.training_flops / 1e9:,.1f} GFLOP per training step, "
            f"{one.traffic / 1e9:,.1f} GB read and written",
        )
        yield (
            "memory",
            (
                f"{self.batch.weight_bytes / 1e9:,.2f} GB weights, gradients, AdamW and EMA + "
                f"{one.activation_bytes / 1e9:,.2f} GB activations per structure; {self.batch_size} structures: "
                f"{self.memory_bytes / 1e9:,.1f} of {self.gpu.memory} GB, without temporaries"
            ),
        )
        yield (
            "optimiser step",
            f"{self.batch_size} structures x {self.accumulate} accumulated x {self.num_gpus} GPUs = "
            f"{self.effective_batch_size}",
        )
        for name, size in DATA_SETS.items():
            yield (
                f"epoch, {name}",
                f"{self.hours(size):,.2f} h for {size:,} structures on {self.num_gpus} x {self.gpu.name} "
                f"({self.precision.value}), lower bound",
            )


def report(source: str | Path, gpu: Gpu, num_gpus: int) -> Report:
    """Predict the cost of training a config.

    Args:
        source: fairchem YAML with a plain HDGNN or eSCN, or ``hdgnn:...`` for a shipped one.
        gpu: GPU type.
        num_gpus: number of GPUs.

    Raises:
        ConfigError: another model, or a key that cannot be used.
    """
    config = read_config(source)
    model, optim = dict(config.get("model") or {}), config.get("optim") or {}
    name = str(dotted_name(model.pop("name", None)))
    if name not in MODELS:
        raise ConfigError(f"{source}: model.name: '{name}' has no cost estimate; only {' and '.join(MODELS)} have one")
    batch_size, accumulate = optim.get("batch_size", 1), optim.get("accumulate", 1)
    precision = Precision.from_config(optim, amp=False)
    model_class, config_class = MODELS[name]
    neighbors = model.get("max_neighbors", GraphSettings.max_neighbors)

    def build(num_layers: int) -> nn.Module:
        return model_class(**{**model, "num_layers": num_layers}).network

    line = predict_cost(build, model.get("num_layers", config_class.num_layers), neighbors, gpu, precision)
    one, batch = line.at(AVERAGE_ATOMS), line.at(batch_size * AVERAGE_ATOMS)
    return Report(name, batch_size, accumulate, neighbors, one, batch, gpu, num_gpus, precision)
