"""Periodic structures from one npz file as plain tensors, edges found once, at the start.

The file holds all systems one after another: ``ptr`` [n+1], per atom ``numbers`` and ``pos`` (Å), per system ``cell``
(Å) and ``y`` (eV), and ``split`` where there are splits.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from fairchem_hdgnn.data.neighbor_lists import Search, find_edges
from fairchem_hdgnn.data.periodicity import make_boxes
from gpu_stages.bench import Arguments, Bench

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
            self.pos = torch.from_numpy(arrays["pos"].astype(np.float32)).to(device)
            self.cell = torch.from_numpy(arrays["cell"].astype(np.float32)).to(device)
            self.targets = torch.from_numpy(arrays["y"]).to(device)
            splits = arrays["split"] if "split" in arrays.files else np.full(len(ptr) - 1, "train")
        self.rows = {str(name): torch.from_numpy(np.flatnonzero(splits == name)) for name in np.unique(splits)}
        self.first, self.natoms = ptr[:-1], ptr.diff()
        self.cutoff, self.max_neighbors = cutoff, max_neighbors
        self.edges: dict[int, tuple[Tensor, Tensor]] = {}

    def find_edges(self, rows: Tensor) -> None:
        """Edges of these systems, where they are not known, as the models find them."""
        new = torch.tensor([row for row in rows.tolist() if row not in self.edges], dtype=torch.long)
        for part in new[self.natoms[new].argsort()].split(SYSTEMS_AT_ONCE) if len(new) else ():
            atoms, natoms = self._atoms(part), self.natoms[part].to(self.pos.device)
            system = torch.repeat_interleave(torch.arange(len(part), device=natoms.device), natoms)
            cell = self.cell[part.to(self.pos.device)]
            data = SimpleNamespace(pos=self.pos[atoms], cell=cell, natoms=natoms, batch=system)
            search = Search(self.cutoff, self.max_neighbors)
            boxes = make_boxes(data, self.cutoff)
            found = find_edges(boxes, boxes.sizes.tolist(), system, search)
            edge_index = found.edge_index - (natoms.cumsum(0) - natoms)[system[found.edge_index[1]]]
            sizes = found.neighbors.tolist()
            each = zip(edge_index.split(sizes, dim=1), found.edge_vec.float().split(sizes))
            self.edges.update(zip(part.tolist(), each))

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
        FileNotFoundError: the file is not there.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; `make gpu-bundle` makes it")
    return Slabs(path, bench.device, cutoff, max_neighbors)
