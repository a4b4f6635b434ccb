"""``format: safe_lmdb``: fairchem's ``lmdb`` data set for untrusted files.

The records are the same, but no code in the files can run: :mod:`fairchem_hdgnn.data.safe_pickle` reads the records,
and ``metadata.npz`` is read without pickles. Damaged files are refused by name when the data set is opened.
"""

from __future__ import annotations

import bisect
import zipfile
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
from fairchem.core.common.registry import registry
from fairchem.core.datasets._utils import rename_data_object_keys
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from torch_geometric.data import Data

from fairchem_hdgnn.data.lmdb import LMDB_FORMATS, METADATA_FILE, lmdb_files, open_lmdb, read_length, read_record
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.fairchem1.noisy_nodes import Transforms


def safe_format(name: str) -> str:
    """The format that reads the same files as ``name`` without running code, if there is one; otherwise ``name``."""
    return "safe_lmdb" if name in LMDB_FORMATS else name


@registry.register_dataset("safe_lmdb")
class SafeLmdbDataset(LmdbDataset):
    """One LMDB file, or all ``*.lmdb`` files of a folder; has the keys of fairchem's ``lmdb``.

    Raises:
        ConfigError: ``src`` is missing or a list.
        DataError: a file is missing, empty, truncated, damaged, or contains a pickled object.
    """

    def __init__(self, config: dict) -> None:
        """Open the files named by ``config["src"]`` and check them."""
        src = config.get("src")
        if not isinstance(src, str):
            raise ConfigError(
                "dataset: format safe_lmdb needs `src`, the path of one .lmdb file or of a folder of them"
            )
        folder = Path(src)
        if not folder.exists():
            raise DataError(f"LMDB {folder} does not exist: check `src` in the config")
        lmdb_files(folder)
        if config.get("lin_ref"):
            _refuse_objects(Path(config["lin_ref"]))
        super().__init__(config)
        if self.num_samples == 0:
            raise DataError(f"LMDB {src} contains no records: re-create it")
        self.transforms = Transforms(config.get("transforms"))
        self._check_metadata()

    def connect_db(self, lmdb_path: Path | None = None) -> lmdb.Environment:
        """Open a file; the environment is shared with other data sets of this process that read it."""
        environment = open_lmdb(self.path if lmdb_path is None else lmdb_path)
        # The constructor unpickles this entry next, so it is checked first.
        read_length(environment)
        return environment

    def __getitem__(self, idx: int | np.integer) -> Data:
        """The record ``idx``.

        Raises:
            DataError: it is missing, damaged, or contains objects that do not belong in a record.
        """
        index = int(self.indices[idx])
        if self.path.is_file():
            record = read_record(self.env, index)
        else:
            shard = bisect.bisect(self._keylen_cumulative, index)
            key = index - (self._keylen_cumulative[shard - 1] if shard else 0)
            record = read_record(self.envs[shard], key)
            record.id = f"{shard}_{key}"
        record = self.transforms(record)
        return record if self.key_mapping is None else rename_data_object_keys(record, self.key_mapping)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the open files, for a data-loader process."""
        return {name: value for name, value in vars(self).items() if name not in ("env", "envs")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the files in the other process."""
        self.__dict__.update(state)
        if self.path.is_file():
            self.env = self.connect_db()
        else:
            self.envs = [self.connect_db(path) for path in lmdb_files(self.path)]

    def __del__(self) -> None:
        """Do not close the environments: other data sets may read them; the last one closes them."""

    def _check_metadata(self) -> None:
        folder = self.path.parent if self.path.is_file() else self.path
        path = Path(self.config.get("metadata_path") or folder / METADATA_FILE)
        if not path.is_file():
            return
        arrays = _refuse_objects(path)
        count = len(arrays.get("natoms", ()))
        if "natoms" not in arrays or (count != self.num_samples and not self.sharded):
            raise DataError(f"{path} describes {count} systems, but {self.path} has {self.num_samples}: re-create it")


def _refuse_objects(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, without unpickling objects, as fairchem itself would."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as plain arrays ({error}): re-create it") from error
