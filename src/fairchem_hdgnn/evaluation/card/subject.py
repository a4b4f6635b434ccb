"""The subject of a card: a checkpoint, its network and its record of the training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairchem_hdgnn.files import sha256
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.graph import GraphSettings
from fairchem_hdgnn.host.models import read_keys
from fairchem_hdgnn.host.targets import label_of, unit_of
from fairchem_hdgnn.host.trained import TrainedNetwork
from fairchem_hdgnn.host.training_record import TrainingRecord, read_training_record
from fairchem_hdgnn.models.hdgnn.options import Message


@dataclass(frozen=True)
class Subject:
    """A checkpoint.

    Attributes:
        path: the file.
        size: of the file, bytes.
        sha256: of the file, in hex.
        trained: the network with its normalisers.
        record: the file's record of the training.
        config: of the network, with every key.
        graph: settings of the edge search.
        num_parameters: trainable numbers of the network.
    """

    path: Path
    size: int
    sha256: str
    trained: TrainedNetwork
    record: TrainingRecord
    config: Any
    graph: GraphSettings
    num_parameters: int

    @property
    def target(self) -> str:
        """Name of the output of a whole structure: ``energy``, or one of QM9's targets."""
        model = self.record.section("model")
        names = [part.get("output_name") for part in (model, model.get("backbone")) if isinstance(part, dict)]
        return next((name for name in names if isinstance(name, str) and name), "energy")

    @property
    def label(self) -> str | None:
        """Name of the target's label in the records; ``None`` if the file does not state it."""
        train = self.record.training_set
        mapping = train.get("key_mapping")
        return label_of(train, self.target) if isinstance(mapping, dict) and self.target in mapping.values() else None

    @property
    def units(self) -> dict[str, str]:
        """Output -> its unit, e.g. eV and eV/Å."""
        units = {self.target: unit_of(self.target, self.label)}
        return {**units, "forces": "eV/Å"} if "forces" in self.trained.outputs else units

    @property
    def sizes(self) -> dict[str, Any]:
        """The most important keys, under the paper's names."""
        names = {"L": "lmax", "L'": "lmax_metp", "K": "num_layers", "C": "sphere_channels"}
        if getattr(self.config, "message", None) in (Message.FULLY_TP, Message.UNRESTRICTED):
            del names["L'"]
        return {name: getattr(self.config, key) for name, key in names.items() if hasattr(self.config, key)}

    @property
    def default_title(self) -> str:
        """Architecture and sizes."""
        sizes = ", ".join(f"{name} = {value}" for name, value in self.sizes.items())
        return f"{self.trained.architecture.name} ({sizes})"


def read_subject(path: Path, *, trusted: bool = False) -> Subject:
    """A checkpoint of either fairchem-core, in the environment of either.

    Raises:
        DataError: the file cannot be read, or its weights do not fit its keys.
        ConfigError: its model is not one of this package.
    """
    trained = read_trained(path, trusted=trusted)
    graph, config = read_keys(trained.keys, trained.architecture)
    num_parameters = sum(parameter.numel() for parameter in trained.build().parameters())
    record = read_training_record(path, trusted=trusted)
    return Subject(path, path.stat().st_size, sha256(path), trained, record, config, graph, num_parameters)
