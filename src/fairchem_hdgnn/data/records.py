"""Structures as OC20 records: torch_geometric graphs with OC20's attribute names, shapes and types."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from torch_geometric.data import Data


def atoms_to_record(atoms: Atoms, sid: int | str) -> Data:
    """What every OC20 record has: positions and cell in Å, float32; ``tags`` and ``fixed`` as the atoms carry them."""
    fixed = np.zeros(len(atoms), dtype=np.float32)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            fixed[constraint.index] = 1.0
    return Data(
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags(), dtype=torch.long),
        fixed=torch.from_numpy(fixed),
        sid=sid,
    )
