"""Relaxed systems in one compressed file, without pickles: what comes with the demo, so that nobody need wait."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent
from structures.manifest import RECIPE
from structures.system import Relaxed, System

SUPPLIED = Path(__file__).with_name("relaxed.npz")
"""The default data set: 500 training systems, 100 in each validation split, seed 0."""

PER_SYSTEM = ("split", "adsorbate", "slab", "natoms", "cell", "y_init", "y_relaxed")
PER_ATOM = ("numbers", "tags", "pos", "pos_relaxed")


DAMAGE = (EOFError, ValueError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy, zipfile and json make of a file that is cut short, altered or something else."""


def write_archive(path: Path, relaxed: Relaxed) -> None:
    """Write systems as arrays: positions and cells in Å, float32 as in the records; energies in eV, float64."""
    systems = [(split, system) for split, of_split in relaxed.splits.items() for system in of_split]
    starts = [system.start for _, system in systems]
    arrays = {
        "split": np.array([split for split, _ in systems]),
        "adsorbate": np.array([system.adsorbate for _, system in systems]),
        "slab": np.array([system.slab for _, system in systems]),
        "natoms": np.array([len(start) for start in starts], dtype=np.uint8),
        "cell": np.array([start.cell.array for start in starts], dtype=np.float32),
        "y_init": np.array([system.y_init for _, system in systems]),
        "y_relaxed": np.array([system.y_relaxed for _, system in systems]),
        "numbers": np.concatenate([start.numbers for start in starts]).astype(np.uint8),
        "tags": np.concatenate([start.get_tags() for start in starts]).astype(np.uint8),
        "pos": np.concatenate([start.positions for start in starts]).astype(np.float32),
        "pos_relaxed": np.concatenate([system.pos_relaxed for _, system in systems]).astype(np.float32),
    }
    facts = {
        "recipe": RECIPE,
        "seed": relaxed.seed,
        "left_out": dict(relaxed.left_out.most_common()),
        "versions": relaxed.versions,
    }
    with complete_or_absent(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]


def read_archive(path: Path = SUPPLIED) -> Relaxed:
    """The systems of a file that ``write_archive`` wrote.

    Raises:
        DataError: the file is missing, damaged, or of another recipe.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*PER_SYSTEM, *PER_ATOM)}
            facts = json.loads(str(file["facts"]))
        recipe, seed, left_out, versions = (facts[key] for key in ("recipe", "seed", "left_out", "versions"))
        splits = _splits(arrays)
    except (*DAMAGE, OSError) as error:
        raise DataError(
            f"{path} is missing or damaged ({' '.join(str(error).split())}): get it again, "
            "or re-create the data with examples/demo/make_data.py"
        ) from error
    if recipe != RECIPE:
        raise DataError(
            f"{path} holds systems of recipe {recipe}, not {RECIPE}: re-create it with "
            "examples/demo/make_data.py OUT --archive FILE"
        )
    return Relaxed(splits, Counter(left_out), seed, versions)


def _splits(arrays: dict[str, np.ndarray]) -> dict[str, list[System]]:
    natoms = arrays["natoms"].astype(int)
    lengths = {name: len(arrays[name]) for name in (*PER_SYSTEM, *PER_ATOM)}
    expected = dict.fromkeys(PER_SYSTEM, len(natoms)) | dict.fromkeys(PER_ATOM, natoms.sum())
    wrong = [name for name in lengths if lengths[name] != expected[name]]
    if wrong or not all(np.isfinite(arrays[name]).all() for name in ("cell", "y_init", "y_relaxed", "pos")):
        raise ValueError(f"'{wrong[0]}' has another length" if wrong else "a number is not finite")
    per_atom = {name: np.split(arrays[name], np.cumsum(natoms)[:-1]) for name in PER_ATOM}
    splits: dict[str, list[System]] = {}
    for index, split in enumerate(arrays["split"].tolist()):
        tags = per_atom["tags"][index]
        start = Atoms(
            per_atom["numbers"][index],
            per_atom["pos"][index],
            cell=arrays["cell"][index],
            pbc=True,
            tags=tags,
            constraint=FixAtoms(mask=tags == 0),
        )
        system = System(
            start=start,
            pos_relaxed=per_atom["pos_relaxed"][index],
            y_init=float(arrays["y_init"][index]),
            y_relaxed=float(arrays["y_relaxed"][index]),
            adsorbate=str(arrays["adsorbate"][index]),
            slab=str(arrays["slab"][index]),
        )
        splits.setdefault(split, []).append(system)
    return splits
