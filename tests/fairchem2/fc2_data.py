"""OC20 LMDBs of small random systems, for tests under fairchem-core 2."""

from __future__ import annotations

from pathlib import Path

import torch
from torch_geometric.data import Data

from fairchem_hdgnn.data.lmdb import write_lmdb

GRID = torch.cartesian_prod(*[torch.arange(3.0)] * 3)


def system(sid: int, frame: int | None = None) -> Data:
    """An IS2RE record of 4 to 9 atoms, or a frame for S2EF; the numbers depend on ``sid`` and ``frame`` alone."""
    draws = torch.Generator().manual_seed(1000 * sid + (frame or 0))
    size = int(torch.randint(4, 10, (), generator=draws))
    numbers = torch.tensor([1.0, 8.0, 29.0, 78.0])[torch.randint(4, (size,), generator=draws)]
    places = GRID[torch.randperm(27, generator=draws)[:size]]
    pos = 0.7 + 2.2 * places + 0.2 * torch.randn(size, 3, generator=draws)
    record = Data(
        atomic_numbers=numbers,
        pos=pos,
        cell=7.0 * torch.eye(3)[None],
        natoms=size,
        tags=torch.arange(size) % 3,
        fixed=(torch.arange(size) % 4 == 0).float(),
        sid=sid,
    )
    energy = float(numbers.sin().sum())
    if frame is None:
        record.y_init, record.y_relaxed = energy + 0.5, energy
        record.pos_relaxed = pos + 0.1 * torch.randn(size, 3, generator=draws)
    else:
        record.fid, record.y, record.force = frame, energy, torch.randn(size, 3, generator=draws)
    return record


def is2re(folder: Path, count: int, first: int = 100) -> Path:
    """``folder/data.lmdb`` with systems ``first``, ``first + 1``, ..., and ``metadata.npz`` beside it."""
    folder.mkdir(parents=True)
    write_lmdb(folder, (system(first + index) for index in range(count)))
    return folder / "data.lmdb"


def molecule(sid: int) -> Data:
    """Three atoms in no cell, which do not repeat."""
    return Data(
        atomic_numbers=torch.tensor([8.0, 1.0, 1.0]),
        pos=torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.0, -0.8, -0.5]]),
        cell=torch.zeros(1, 3, 3),
        pbc=torch.tensor([[False, False, False]]),
        natoms=3,
        tags=torch.full((3,), 2),
        fixed=torch.zeros(3),
        sid=sid,
        y_relaxed=-1.0,
    )


TINY = {
    "lmax": 2, "lmax_metp": 1, "num_layers": 1, "sphere_channels": 4, "hidden_channels": 8, "hidden_channels_far": 4,
    "edge_channels": 8, "invariant_channels": 8, "num_sphere_samples": 16, "distance_resolution": 0.5, "cutoff": 4.0,
    "max_neighbors": 8, "near_neighbors": 4,
}  # fmt: skip
"""Keys of an HDGNN that trains in seconds."""


def tiny_network() -> list[str]:
    """``TINY`` as fairchem's overrides of a configuration."""
    return [f"++runner.train_eval_unit.model.backbone.{key}={value}" for key, value in TINY.items()]


SPLITS = ("train", "val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")
"""Folders of a data set, as a configuration's ``data`` names them."""
