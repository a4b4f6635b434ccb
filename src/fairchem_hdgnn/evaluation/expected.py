"""The systems of an LMDB, each of which a submission must contain exactly once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Shaped
from tqdm import tqdm

from fairchem_hdgnn.data.records import record_id
from fairchem_hdgnn.data.splits import has_split, split_source
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.splits import SUFFIXES
from fairchem_hdgnn.host.opening import open_split


@dataclass(frozen=True)
class ExpectedSystems:
    """The systems of one split.

    Attributes:
        source: the LMDB file or folder.
        ids: ``sid`` or ``sid_fid`` as text.
        free_atoms: number of atoms that are not fixed.
    """

    source: Path
    ids: Shaped[np.ndarray, "systems"]
    free_atoms: Int64[np.ndarray, "systems"]


def expected_systems(
    root: Path, prefix: str = "test", *, data_format: str | None = None, progress: bool = True
) -> dict[str, ExpectedSystems]:
    """The systems of ``PREFIX_id``, ``PREFIX_ood_ads``, ``PREFIX_ood_cat`` and ``PREFIX_ood_both`` under ``root``.

    Args:
        root: folder with the four splits.
        prefix: ``test``, or ``val`` for a practice file.
        data_format: as in ``InferenceOptions``.
        progress: show progress bars.

    Raises:
        DataError: an LMDB is missing or unreadable.
    """
    if prefix == "test" and not has_split(root, "test_id") and has_split(root, "val_id"):
        raise DataError(f"{root}: has validation splits only; use --prefix val for a practice file")
    sources = {suffix: split_source(root, f"{prefix}_{suffix}") for suffix in SUFFIXES}
    return {suffix: _read(source, f"{prefix}_{suffix}", data_format, progress) for suffix, source in sources.items()}


def _read(source: Path, name: str, data_format: str | None, progress: bool) -> ExpectedSystems:
    dataset = open_split({}, source, data_format)
    ids = []
    free_atoms = np.zeros(len(dataset), dtype=np.int64)
    for index in tqdm(range(len(dataset)), desc=f"ids of {name}", unit="system", disable=not progress, leave=False):
        record = dataset[index]
        if "fixed" not in record:
            raise DataError(
                f"{source}, record {index}: has no 'fixed', which marks atoms without scored forces; re-create the LMDB"
            )
        ids.append(record_id(record))
        free_atoms[index] = int((record.fixed == 0).sum())
    return ExpectedSystems(source, np.array(ids), free_atoms)
