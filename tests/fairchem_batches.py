"""Structures as records and batches of fairchem."""

from __future__ import annotations

import torch
from ase import Atoms
from fairchem.core.datasets import data_list_collater
from fairchem.core.preprocessing import AtomsToGraphs
from torch_geometric.data import Batch, Data


def batch_of(*structures: Atoms) -> Batch:
    """As fairchem's calculator and its ASE data sets make it, ``pbc`` of all in one row; positions in float64."""
    convert = AtomsToGraphs(r_edges=False, r_pbc=True)
    records = []
    for sid, atoms in enumerate(structures):
        record = convert.convert(atoms)
        record.pos, record.sid = torch.from_numpy(atoms.positions), sid
        record.cell = torch.from_numpy(atoms.get_cell(complete=True).array)[None]
        records.append(record)
    return data_list_collater(records, otf_graph=True)


def system(pos: list[list[float]], numbers: list[int], cell: torch.Tensor | float = 10.0, sid: int = 7) -> Data:
    """A record such as OC20's, without ``pbc``."""
    size = len(numbers)
    return Data(
        pos=torch.tensor(pos).reshape(size, 3),
        atomic_numbers=torch.tensor(numbers, dtype=torch.float32),
        cell=(cell if isinstance(cell, torch.Tensor) else cell * torch.eye(3))[None],
        natoms=size,
        tags=torch.zeros(size),
        fixed=torch.zeros(size),
        sid=sid,
    )
