"""Prediction with a trained network on LMDBs; needs no fairchem."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.data.labels import collect_labels
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.host.opened import OpenedCheckpoint
from fairchem_hdgnn.host.targets import target_of_network
from fairchem_hdgnn.host.trained import TrainedNetwork
from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32

BATCH_SIZE = 8
"""Default if a checkpoint has no batch size."""

LABELS = {"energy": ("y_relaxed", "energy", "y"), "forces": ("forces", "force")}
"""Target -> its possible names in OC20's records; the first one present is used."""


class LabelledRecords(Dataset):
    """The records of an LMDB file or a folder of them, read without running code, with labels renamed.

    Args:
        path: the file or folder.
        key_mapping: name in the records -> name in the batch; ``None``: as in :data:`LABELS`.

    Raises:
        DataError: there is no LMDB, or it is damaged.
    """

    def __init__(self, path: Path, key_mapping: Mapping[str, str] | None) -> None:
        self.path, self.key_mapping = path, key_mapping
        self.records = Records(path)

    def __len__(self) -> int:
        """Number of records."""
        return len(self.records)

    def __getitem__(self, index: int) -> Data:
        """The record ``index``."""
        record = self.records[index]
        for before, after in self._names(record).items():
            if before in record and before != after:
                record[after] = record[before]
                del record[before]
        return record

    def _names(self, record: Data) -> Mapping[str, str]:
        if self.key_mapping is not None:
            return self.key_mapping
        there = {target: next((name for name in names if name in record), target) for target, names in LABELS.items()}
        return {name: target for target, name in there.items()}

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open files, for a data-loader process."""
        return {"path": self.path, "key_mapping": self.key_mapping}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files in the other process."""
        self.__init__(**state)  # type: ignore[misc]


class NetworkCheckpoint(OpenedCheckpoint):
    """A trained network, ready to predict.

    Args:
        trained: the network.
        dataset: how its data are read.
        device: device that it runs on.
        seed: random seed of weights that ``trained`` lacks.
    """

    def __init__(
        self, trained: TrainedNetwork, dataset: Mapping[str, Any], device: torch.device, seed: int = 0
    ) -> None:
        self.trained, self.device = trained, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = trained.build().to(device)
        self.outputs = trained.outputs
        self.scale = trained.scales["energy"].rmsd if "energy" in trained.scales else 1.0
        self.unit = target_of_network(trained).unit
        self.dataset = dataset
        self.batch_size = trained.batch_size or BATCH_SIZE

    def seed(self, seed: int) -> None:
        """Seed Python's, numpy's and torch's generators."""
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def collate(self, records: list[Data]) -> Batch:
        """Collate records into a batch on the CPU."""
        batch = Batch.from_data_list(records)
        collect_labels(batch, self.outputs)
        return batch

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """Predict a batch; float32, without TF32."""
        batch = batch.to(self.device)
        with torch.no_grad(), allow_tf32(False):
            return self.trained.in_units(self.model(batch), batch)
