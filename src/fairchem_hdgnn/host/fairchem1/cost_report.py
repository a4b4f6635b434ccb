"""Report the cost of training a config on its own data, or on OC20."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.cost import Cost, Gpu, predict_cost
from fairchem_hdgnn.host.fairchem1.config_files import read_config, sources, splits_of
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

SAMPLE = 100
"""Records that are read for the mean number of atoms."""

SHORT = 0.01
"""Seconds; PyTorch may take longer than a shorter batch to start its kernels."""


@dataclass(frozen=True)
class DataSet:
    """Training structures.

    Attributes:
        name: of the data set.
        structures: their number.
        atoms: mean atoms per structure.
    """

    name: str
    structures: int
    atoms: float


OC20 = (DataSet("OC20 IS2RE all", 460_328, 73), DataSet("OC20 S2EF 2M", 2_000_000, 73))
"""Structures have 7 to 225 atoms (Gasteiger et al., GemNet-OC, 2022)."""


@dataclass(frozen=True)
class Report:
    """The cost of training a config.

    Attributes:
        name: name of the model.
        batch_size: structures per GPU in a batch.
        accumulate: batches per optimiser step.
        neighbors: edges into each atom.
        data_sets: to train on, with one mean number of atoms.
        epochs: of the config; 0 if it has none.
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
    data_sets: tuple[DataSet, ...]
    epochs: int
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
        one, data = self.structure, self.data_sets[0]
        edges = data.atoms * self.neighbors
        average = "average of OC20" if data in OC20 else f"average of {data.name}"
        yield "model", f"{self.name}, {one.parameters:,.0f} parameters"
        yield "structure", f"{data.atoms:.0f} atoms ({average}), {edges:,.0f} edges ({self.neighbors} into each atom)"
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
        where = f"on {self.num_gpus} x {self.gpu.name} ({self.precision.value}), lower bound"
        for data in self.data_sets:
            hours = self.hours(data.structures)
            yield f"epoch, {data.name}", f"{duration(hours)} for {data.structures:,} structures {where}"
            if data not in OC20 and self.epochs:
                yield f"{self.epochs} epochs", f"{duration(self.epochs * hours)} {where}"
        if self.batch.seconds < SHORT:
            yield (
                "note",
                "the start of kernels, which is not counted, may take longer than all else for so small a batch",
            )


def report(source: str | Path, gpu: Gpu, num_gpus: int) -> Report:
    """Predict the cost of training a config on its training data if these can be read, else on OC20.

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

    data_sets = data_sets_of(config)
    line = predict_cost(build, model.get("num_layers", config_class.num_layers), neighbors, gpu, precision)
    one, batch = line.at(data_sets[0].atoms), line.at(batch_size * data_sets[0].atoms)
    epochs = int(optim.get("max_epochs") or 0)
    return Report(name, batch_size, accumulate, neighbors, data_sets, epochs, one, batch, gpu, num_gpus, precision)


def data_sets_of(config: Mapping[str, Any]) -> tuple[DataSet, ...]:
    """The training data of a config if they can be read, else OC20's."""
    train = splits_of(config).get("train", {})
    try:
        sets = [Records(source) for source in sources(train)]
    except DataError:
        return OC20
    total = sum(map(len, sets))
    if not total:
        return OC20
    step = max(1, total // SAMPLE)
    atoms = [int(records.structure(index).natoms) for records in sets for index in range(0, len(records), step)]
    limits = train.get("train_split_settings") or {}
    structures = min(total, *(limits.get(key) or total for key in ("first_n", "sample_n")))
    return (DataSet("dataset.train", structures, sum(atoms) / len(atoms)),)


def duration(hours: float) -> str:
    """In hours, or in minutes if it is less than one."""
    return f"{hours:,.2f} h" if hours >= 1 else f"{60 * hours:.1f} min"
