"""Periodic structures from one npz file as plain tensors, edges found by fairchem once, at the start.

The file holds all systems one after another: ``ptr`` [n+1], per atom ``numbers`` and ``pos`` (Å), per system ``cell``
(Å) and ``y`` (eV), and ``split`` where there are splits.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from gpu_stages.bench import Arguments, Bench, tf32_everywhere
from gpu_stages.fairchem import load

SYSTEMS_AT_ONCE = 16


class Slabs:
    """All structures on one device, with their edges.

    Attributes:
        targets: energy of each system, eV.
        rows: systems of each split.
    """

    def __init__(self, path: Path, device: torch.device, cutoff: float, max_neighbors: int) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            ptr = torch.from_numpy(arrays["ptr"].astype(np.int64))
            self.numbers = torch.from_numpy(arrays["numbers"].astype(np.int64)).to(device)
            cell, pos = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("cell", "pos"))
            self.targets = torch.from_numpy(arrays["y"]).to(device)
            splits = arrays["split"] if "split" in arrays.files else np.full(len(ptr) - 1, "train")
        self.rows = {str(name): torch.from_numpy(np.flatnonzero(splits == name)) for name in np.unique(splits)}
        self.first, self.natoms = ptr[:-1], ptr.diff()
        # fairchem misses edges of atoms far outside their cell.
        cell_of_atom = cell.repeat_interleave(self.natoms, dim=0)
        fractional = torch.linalg.solve(cell_of_atom.mT, pos)
        inside = pos - (fractional.floor().unsqueeze(1) @ cell_of_atom).squeeze(1)
        self.pos, self.cell = inside.float().to(device), cell.float().to(device)
        self.cutoff, self.max_neighbors = cutoff, max_neighbors
        self.edges: dict[int, tuple[Tensor, Tensor]] = {}

    def find_edges(self, rows: Tensor) -> None:
        """Edges of these systems, by fairchem, where they are not known."""
        utils = importlib.import_module("fairchem.core.common.utils")
        new = torch.tensor([row for row in rows.tolist() if row not in self.edges], dtype=torch.long)
        for part in new[self.natoms[new].argsort()].split(SYSTEMS_AT_ONCE) if len(new) else ():
            atoms, natoms = self._atoms(part), self.natoms[part].to(self.pos.device)
            data = SimpleNamespace(pos=self.pos[atoms], cell=self.cell[part.to(self.pos.device)], natoms=natoms)
            with tf32_everywhere(False):
                found, images, counts = utils.radius_graph_pbc(data, self.cutoff, self.max_neighbors, True)
            system = torch.repeat_interleave(torch.arange(len(part), device=found.device), counts)
            shifts = (images.unsqueeze(-1) * data.cell[system]).sum(1)
            edge_vec = data.pos[found[0]] - data.pos[found[1]] + shifts
            found = found - (natoms.cumsum(0) - natoms)[system]
            sizes = counts.tolist()
            for row, index, vectors in zip(part.tolist(), found.split(sizes, dim=1), edge_vec.split(sizes)):
                self.edges[row] = (index, vectors)

    def batch(self, rows: Tensor, cutoff: float) -> Arguments:
        """Arguments of ``network(...)`` for these systems; ``cutoff`` is the one that the edges were made for."""
        assert cutoff == self.cutoff
        rows = rows.cpu()
        self.find_edges(rows)
        natoms, device = self.natoms[rows], self.pos.device
        offsets = (natoms.cumsum(0) - natoms).tolist()
        parts = [self.edges[row] for row in rows.tolist()]
        edge_index = torch.cat([index + offset for (index, _), offset in zip(parts, offsets)], dim=1)
        batch = torch.repeat_interleave(torch.arange(len(rows)), natoms).to(device)
        return self.numbers[self._atoms(rows)], edge_index, torch.cat([v for _, v in parts]), batch, len(rows)

    def _atoms(self, rows: Tensor) -> Tensor:
        ranges = [torch.arange(int(self.first[row]), int(self.first[row] + self.natoms[row])) for row in rows]
        return torch.cat(ranges).to(self.pos.device)


def slabs(path: Path, bench: Bench, cutoff: float, max_neighbors: int) -> Slabs:
    """Structures of a file that ``make gpu-bundle`` carried along.

    Raises:
        FileNotFoundError: the file, or fairchem to find edges with, is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make gpu-bundle` makes it")
    load(bench.carry)
    return Slabs(path, bench.device, cutoff, max_neighbors)
