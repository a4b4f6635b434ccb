"""QM9 for fairchem's trainer: the splits, and one record per molecule with its edges."""

from __future__ import annotations

import numpy as np
import torch
from torch_geometric.data import Data

from fairchem_hdgnn.data.qm9_molecules import NUM_CHARACTERISED, Molecules
from fairchem_hdgnn.data.qm9_targets import TARGETS
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE

SPLIT_SEED = 1
"""As in TorchMD-NET, Equiformer and EquiformerV2, whose numbers the tables compare with."""

SPLIT_SIZES = {"train": 110_000, "val": 10_000, "test": 10_831}


def split_rows(num_molecules: int = NUM_CHARACTERISED) -> dict[str, np.ndarray]:
    """Rows of each split, in the order in which records are stored.

    ``numpy.random.default_rng(1).permutation(num_molecules)`` over the characterised molecules sorted by index:
    the first 110,000 are the training set, the next 10,000 the validation set, the last 10,831 the test set. Of an
    incomplete source the same fractions are taken. Rows are also indices into torch-geometric's ``QM9``.
    """
    permutation = np.random.default_rng(SPLIT_SEED).permutation(num_molecules)
    sizes = np.array(list(SPLIT_SIZES.values()))
    ends = np.round(np.cumsum(sizes) * num_molecules / NUM_CHARACTERISED).astype(int)
    return dict(zip(SPLIT_SIZES, np.split(permutation, ends[:-1])))


def edges_within(positions: np.ndarray, cutoff: float) -> np.ndarray:
    """Edges [2, num_edges] (source, target) between atoms at most ``cutoff`` Å apart, sorted by target."""
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    target, source = np.nonzero(distances <= cutoff)
    return np.stack([source, target])


def record(molecules: Molecules, row: int, targets: np.ndarray, cutoff: float) -> Data:
    """The record of one molecule.

    Args:
        molecules: All molecules.
        row: Which of them.
        targets: ``molecules.targets()``, so that it is computed once.
        cutoff: Å, of the stored edges.

    Returns:
        ``atomic_numbers``, ``pos`` (Å), ``cell`` (zero: not periodic), ``natoms``, ``tags``, ``fixed``, ``sid``
        (number in GDB-9), ``edge_index``, ``edge_cutoff`` (Å), and each of the twelve targets under its own name, in
        the units of ``TARGETS``.
    """
    atoms = molecules.atoms(row)
    positions = molecules.positions[atoms]
    num_atoms = len(positions)
    return Data(
        atomic_numbers=torch.from_numpy(molecules.numbers[atoms].astype(np.int64)),
        pos=torch.from_numpy(positions.astype(np.float32)),
        cell=torch.zeros(1, 3, 3),
        natoms=num_atoms,
        tags=torch.full((num_atoms,), ADSORBATE),
        fixed=torch.zeros(num_atoms),
        sid=int(molecules.index[row]),
        edge_index=torch.from_numpy(edges_within(positions, cutoff)),
        edge_cutoff=float(cutoff),
        **dict(zip(TARGETS, targets[row].tolist())),
    )
