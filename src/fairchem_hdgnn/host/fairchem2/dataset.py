"""``format: fairchem_hdgnn.OC20Dataset``: OC20's IS2RE and S2EF LMDBs, which fairchem-core 2 does not read itself.

In a config::

    splits:
      train: {src: data/is2re/10k/train/data.lmdb}
    format: fairchem_hdgnn.OC20Dataset
    dataset_name: oc20                          # as in the tasks' ``datasets``
    key_mapping: {y_relaxed: relaxed_energy}    # name in the record: name of the task

Reading a file never executes code in it (:mod:`fairchem_hdgnn.data.safe_pickle`).
"""

from __future__ import annotations

import operator
import zipfile
from functools import cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import torch
from fairchem.core.datasets.atomic_data import AtomicData
from fairchem.core.datasets.base_dataset import BaseDataset
from tqdm import tqdm

from fairchem_hdgnn.data.lmdb import METADATA_FILE
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import ConfigError, DataError, suggestion
from fairchem_hdgnn.host.fairchem2.atomic_data import atomic_data
from fairchem_hdgnn.host.noisy_nodes import TARGET, NoisyNodes, add_displacement
from fairchem_hdgnn.hyperparameters import from_keys
from fairchem_hdgnn.models.seeds import record_seed

FAIRCHEMS_KEYS = ("format", "seed", "max_atoms", "no_shuffle", "sample_n", "first_n")
KEYS = ("src", "dataset_name", "key_mapping", "noisy_nodes", *FAIRCHEMS_KEYS)
"""Keys of a split."""

DISPLACEMENT = "displacement_forces"
"""The task of Noisy Nodes; fairchem requires "forces" in the name of a task with per-atom vectors."""


class OC20Dataset(BaseDataset):
    """An LMDB file, a folder of them, or a list of these.

    With ``noisy_nodes: {probability: 0.5, standard_deviation: 0.3}`` training structures start between the initial and
    the relaxed positions, with noise, and the label ``displacement_forces`` is the remaining displacement, Å. The
    random numbers are a function of ``seed``, epoch and record, so they are the same after a resume. The callback
    ``ResumeNotice`` sets the epoch; without it, they come from torch's generator in the process that reads the record.

    Args:
        config: see :mod:`this module <fairchem_hdgnn.host.fairchem2.dataset>`; ``key_mapping`` may be absent.

    Raises:
        ConfigError: an unknown key, ``src`` or ``dataset_name`` is missing.
        DataError: a file is missing, damaged, empty, or contains a pickled object.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        for key in config:
            if key not in KEYS:
                raise ConfigError(f"dataset: unknown key '{key}'{suggestion(key, KEYS)}")
        for key in ("src", "dataset_name"):
            if not config.get(key):
                raise ConfigError(f"dataset: format fairchem_hdgnn.OC20Dataset needs '{key}'")
        super().__init__(config)
        self.name: str = config["dataset_name"]
        self.labels: dict[str, str] = dict(config.get("key_mapping") or {})
        self.noisy_nodes: NoisyNodes | None = None
        if config.get("noisy_nodes"):
            self.noisy_nodes = from_keys(NoisyNodes, dict(config["noisy_nodes"]), "dataset: noisy_nodes")
        self.seed = int(config.get("seed", 0))
        self.epoch: int | None = None
        self.num_samples = sum(map(len, self.parts))
        if self.num_samples == 0:
            raise DataError(f"LMDB {config['src']} contains no records: re-create it")

    @cached_property
    def parts(self) -> list[Records]:
        """The records of each path."""
        return [Records(Path(path)) for path in self.paths]

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open files, which the receiving process opens again."""
        return {key: value for key, value in self.__dict__.items() if key != "parts"}

    def __getitem__(self, index: SupportsIndex) -> AtomicData:
        """The record ``index`` as fairchem's graph, with its labels."""
        index = operator.index(index)
        record = self._record(index)
        labels = self.labels
        for key in labels:
            if key not in record:
                close = suggestion(key, record.keys())
                problem = f"{self._place(index)}: no '{key}', which key_mapping names{close}"
                raise DataError(f"{problem}; for data without labels omit key_mapping")
        if self.noisy_nodes is not None:
            if "pos_relaxed" not in record:
                raise DataError(f"{self._place(index)}: no 'pos_relaxed', which noisy_nodes needs")
            record, labels = add_displacement(record), {**labels, TARGET: TARGET}
        try:
            data = atomic_data(record, labels, self.name)
        except DataError as error:
            raise DataError(f"{self._place(index)}: {error}") from error
        if self.noisy_nodes is not None:
            self.noisy_nodes.move(data, self._generator(index))
            data[DISPLACEMENT] = data[TARGET]
            del data[TARGET]
        return data

    @cached_property
    def _metadata(self) -> dict[str, np.ndarray]:
        """Atoms of each system, from ``metadata.npz`` if it matches, otherwise counted."""
        return {"natoms": np.concatenate([_sizes(records) for records in self.parts])}

    def _generator(self, index: int) -> torch.Generator | None:
        if self.epoch is None:
            return None
        return torch.Generator().manual_seed(record_seed("noisy_nodes", self.seed, self.epoch, index))

    def _record(self, index: int) -> Any:
        for records in self.parts:
            if index < len(records):
                return records[index]
            index -= len(records)
        raise IndexError(index)

    def _place(self, index: int) -> str:
        for records in self.parts:
            if index < len(records):
                return f"{records.path}, record {index}"
            index -= len(records)
        return str(index)


def _sizes(records: Records) -> np.ndarray:
    """Atoms of each record."""
    if records.has_metadata:
        path = records.files[0].parent / METADATA_FILE
        try:
            with np.load(path, allow_pickle=False) as stored:
                natoms = stored["natoms"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"{path}: cannot be read ({error}); remove it or re-create it") from error
        if len(natoms) == len(records):
            return natoms.astype(np.int64)
    bar = tqdm(records, desc=f"atoms in {records.path}", unit="system", leave=False)
    return np.array([len(record.pos) for record in bar], dtype=np.int64)
