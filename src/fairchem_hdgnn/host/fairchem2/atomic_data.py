"""Convert an OC20 record to the graph object of fairchem-core 2."""

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
    """Convert a record to fairchem's graph, without edges: models build them.

    Args:
        record: a record as in OC20's LMDBs.
        labels: name in the record -> name of the task, such as ``{"y_relaxed": "relaxed_energy"}``. Labels that the
            record lacks are omitted. Per-atom values have shape [atoms, 3].
        dataset: name of the data set in the ``datasets`` of tasks.

    Returns:
        Positions and cell in Å, float32; ``sid`` as a string, ``sid_fid`` for a frame. A record without ``pbc`` is
        periodic along all three cell vectors, as in OC20; one with a zero cell is a molecule.

    Raises:
        DataError: the record lacks ``sid``, or a label is not a number.
    """
    if "sid" not in record:
        raise DataError("a record has no 'sid', the id of its system; re-create the LMDB")
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
    # A string until batches are built: fairchem's collater looks up tasks by it.
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
    """Per-atom integers; 0 if the record has none."""
    if key not in record:
        return torch.zeros(len(record.pos), dtype=torch.long)
    return torch.as_tensor(record[key]).long().reshape(-1)


def _label(value: Any, num_atoms: int, where: str) -> Tensor:
    """``[1]`` for a system, ``[atoms, 3]`` for vectors of atoms; float32."""
    try:
        label = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} is not a number: {value!r}") from error
    if label.numel() == 1:
        return label.reshape(1)
    if label.shape != (num_atoms, 3):
        raise DataError(f"{where} has shape {list(label.shape)}; one number or [{num_atoms}, 3] is needed")
    return label
