"""Structures as OC20 records: torch_geometric graphs with OC20's attribute names, shapes and types."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.geometry import find_mic, wrap_positions
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.data.neighbor_lists import Search, periodic_edges
from fairchem_hdgnn.data.surfaces.tagging import fixed_atoms
from fairchem_hdgnn.errors import DataError

CELL_TOLERANCE = 1e-3
"""Å; largest difference between the cell vectors of an initial and a relaxed structure."""


def atoms_to_record(atoms: Atoms, sid: int | str) -> Data:
    """What every OC20 record has: positions and cell in Å, float32; ``tags`` and ``fixed`` as the atoms carry them."""
    return Data(
        atomic_numbers=torch.tensor(atoms.numbers, dtype=torch.float32),
        pos=torch.tensor(atoms.positions, dtype=torch.float32),
        cell=torch.tensor(atoms.cell.array, dtype=torch.float32)[None],
        natoms=len(atoms),
        tags=torch.tensor(atoms.get_tags(), dtype=torch.long),
        fixed=torch.from_numpy(fixed_atoms(atoms).astype(np.float32)),
        sid=sid,
    )


def require_cell_vectors(atoms: Atoms) -> None:
    """Check that a structure has the cell vectors along which it is periodic.

    Raises:
        DataError: one is zero; fairchem would replace it by one of 1 Å.
    """
    if (atoms.pbc & ~atoms.cell.any(1)).any():
        problem = (
            f"is periodic (pbc {atoms.pbc.tolist()}), but has no cell"
            if atoms.cell.rank == 0
            else (f"is periodic along a cell vector of length 0 (pbc {atoms.pbc.tolist()}, cell {atoms.cell.tolist()})")
        )
        raise DataError(f"{atoms.symbols}: {problem}; set its cell, or atoms.pbc = False")


def inside_cell(atoms: Atoms) -> np.ndarray:
    """Positions inside the cell along its periodic vectors, as in OC20's records: fairchem misses edges of others."""
    return wrap_positions(atoms.positions, atoms.cell, pbc=atoms.pbc, eps=0) if atoms.pbc.any() else atoms.positions


def relaxed_minimum_image(atoms: Atoms, relaxed: np.ndarray) -> torch.Tensor:
    """Relaxed positions, Å, as minimum images with respect to :func:`inside_cell`."""
    return torch.tensor(inside_cell(atoms) + displacement(atoms, relaxed), dtype=torch.float32)


def displacement(atoms: Atoms, positions: np.ndarray) -> np.ndarray:
    """Minimum-image displacement from the atoms to other positions, Å."""
    straight = np.asarray(positions, dtype=np.float64) - atoms.positions
    return find_mic(straight, atoms.cell, pbc=atoms.pbc)[0] if atoms.pbc.any() else straight


def same_cell(one: Atoms, other: Atoms) -> bool:
    """Whether the cell vectors of two structures are the same, to ``CELL_TOLERANCE``."""
    return np.allclose(one.cell.array, other.cell.array, atol=CELL_TOLERANCE)


def record_id(record: Data) -> str:
    """``sid``, or ``sid_fid`` for a frame of a relaxation."""
    names = [record.sid, record.fid] if "fid" in record else [record.sid]
    return "_".join(str(name.item() if isinstance(name, (torch.Tensor, np.ndarray)) else name) for name in names)


def store_edges(record: Data, search: Search) -> None:
    """Set ``edge_index`` [2, edges], ``cell_offsets`` [edges, 3], ``edge_cutoff`` (Å) as fairchem 1.10 reads them.

    They are those that a model with the same search builds in the forward pass; it reads them with
    ``otf_graph: false``. A record without a cell is a molecule, and has offsets of 0.
    """
    record.edge_cutoff = float(search.cutoff)
    edges = periodic_edges(Batch.from_data_list([record]), search, use_pbc=bool(record.cell.any()))
    record.edge_index, record.cell_offsets = edges.edge_index, edges.cell_offsets
