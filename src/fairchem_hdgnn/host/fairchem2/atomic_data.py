"""From an OC20 record to the graph that fairchem-core 2 batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from fairchem.core.datasets.atomic_data import AtomicData
from jaxtyping import Float
from torch import Tensor
from torch_geometric.data import Data

from fairchem_hdgnn.data.records import record_id
from fairchem_hdgnn.errors import DataError


def atomic_data(record: Data, labels: Mapping[str, str], dataset: str) -> AtomicData:
    """A record as fairchem's graph, without edges: models build them.

    Args:
        record: as in OC20's LMDBs.
        labels: name in the record -> name of the task, such as ``{"y_relaxed": "relaxed_energy"}``. Those that the
            record lacks are left out. A value for each atom has their number as its first dimension.
        dataset: as tasks name it in ``datasets``.

    Returns:
        Positions and cell in Å, float32; ``sid`` as text, ``sid_fid`` for a frame. A record without ``pbc`` repeats
        along all three cell vectors, as OC20's do; one with a cell of zeros is a molecule.

    Raises:
        DataError: the record lacks ``sid``, or a label is no number.
    """
    if "sid" not in record:
        raise DataError("a record holds no 'sid', which names its system; make the LMDB again")
    name = record_id(record)
    pos = torch.as_tensor(record.pos, dtype=torch.float32)
    cell = _cell(record)
    data = AtomicData(
        pos=pos,
        atomic_numbers=torch.as_tensor(record.atomic_numbers).long(),
        cell=cell,
        pbc=_pbc(record, cell),
        natoms=torch.tensor([len(pos)]),
        edge_index=torch.empty(2, 0, dtype=torch.long),
        cell_offsets=torch.empty(0, 3),
        nedges=torch.zeros(1, dtype=torch.long),
        charge=torch.zeros(1, dtype=torch.long),
        spin=torch.zeros(1, dtype=torch.long),
        fixed=_of_atoms(record, "fixed"),
        tags=_of_atoms(record, "tags"),
        sid=[name],
    )
    # Text until batches are made: fairchem's collater looks tasks up by it.
    data.dataset = dataset
    for key, task in labels.items():
        if key in record:
            data[task] = _label(record[key], len(pos), f"{name}: '{key}'")
    return data


def _cell(record: Data) -> Float[Tensor, "1 3 3"]:
    if "cell" not in record:
        return torch.zeros(1, 3, 3)
    return torch.as_tensor(record.cell, dtype=torch.float32).reshape(1, 3, 3)


def _pbc(record: Data, cell: Float[Tensor, "1 3 3"]) -> Tensor:
    if "pbc" in record:
        return torch.as_tensor(record.pbc).bool().reshape(1, 3)
    return (cell != 0).any(dim=-1).any(dim=-1, keepdim=True).expand(1, 3).clone()


def _of_atoms(record: Data, key: str) -> Tensor:
    """Whole numbers of the atoms; 0 where the record has none."""
    if key not in record:
        return torch.zeros(len(record.pos), dtype=torch.long)
    return torch.as_tensor(record[key]).long().reshape(-1)


def _label(value: Any, num_atoms: int, where: str) -> Tensor:
    """``[1]`` for a system, ``[atoms, 3]`` for vectors of atoms; float32."""
    try:
        label = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} is no number: {value!r}") from error
    if label.numel() == 1:
        return label.reshape(1)
    if label.shape != (num_atoms, 3):
        raise DataError(f"{where} has shape {list(label.shape)}; one number or [{num_atoms}, 3] is needed")
    return label
