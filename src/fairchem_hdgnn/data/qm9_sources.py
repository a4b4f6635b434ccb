"""Readers of QM9: the ``qm9pack`` package, the original xyz archive, and torch-geometric's raw folder.

Each yields the characterised molecules only. ``qm9pack`` and the xyz archive hold the same digits; the SDF
file that torch-geometric downloads has positions rounded to 1e-4 Å and the same properties.
"""

from __future__ import annotations

import csv
import importlib.util
import itertools
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from fairchem_hdgnn.data.qm9_molecules import NUM_UNCHARACTERISED, SourceMolecule
from fairchem_hdgnn.data.qm9_targets import TARGETS
from fairchem_hdgnn.errors import DataError

_QM9PACK_COLUMNS = {
    "alpha": "Polarizability_bohr3",
    "gap": "HOMO_LUMO_gap_au",
    "homo": "HOMO_au",
    "lumo": "LUMO_au",
    "mu": "Dipole_debye",
    "cv": "Heatcapacity_Cv_cal_mol_K",
    "g": "GibbsFreeEnergy_298K_au",
    "h": "Enthalphy_298K_au",
    "r2": "R2_bohr2",
    "u": "InternalEnergy_298K_au",
    "u0": "InternalEnergy_0K_au",
    "zpve": "ZPVE_au",
}
_SDF_COLUMNS = {**{name: name for name in TARGETS}, "u": "u298", "h": "h298", "g": "g298"}
_XYZ_COLUMNS = ("mu", "alpha", "homo", "lumo", "gap", "r2", "zpve", "u0", "u", "h", "g", "cv")
_XYZ_ROTATIONAL_CONSTANTS = 3

_XYZ_NAME = re.compile(r"dsgdb9nsd_(\d{6})\.xyz$")
_UNCHARACTERISED_NAMES = ("uncharacterized.txt", "3195404")
_UNCHARACTERISED_HEADER_LINES = 9


def read_source(source: str | Path, uncharacterised: Path | None = None) -> tuple[str, Iterator[SourceMolecule]]:
    """Open a source of QM9.

    Args:
        source: ``qm9pack``, or the path of ``dsgdb9nsd.xyz.tar.bz2``, of a folder
            with ``dsgdb9nsd_*.xyz``, or of torch-geometric's raw folder (``gdb9.sdf``, ``gdb9.sdf.csv``).
        uncharacterised: The list of molecules to leave out; by default found next to the data.

    Returns:
        What the source is, in a word, and an iterator over its characterised molecules.

    Raises:
        DataError: the package is not installed, or there is nothing readable at the path.
    """
    if source == "qm9pack":
        if uncharacterised is not None:
            raise DataError(f"{uncharacterised}: qm9pack has no uncharacterised molecules; leave out --uncharacterised")
        return "qm9pack", _read_qm9pack()
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder; give qm9pack, raw or the path of the archive")
    folder = path if path.is_dir() else path.parent
    archives = sorted(path.glob("dsgdb9nsd.xyz.tar*")) if path.is_dir() else [path]
    if path.is_dir() and (path / "gdb9.sdf").exists():
        if not (path / "gdb9.sdf.csv").is_file():
            raise DataError(
                f"{path}: has gdb9.sdf but no gdb9.sdf.csv, the file with the properties; download it again"
            )
        return "sdf", _read_sdf(path, _uncharacterised(folder, uncharacterised))
    if path.is_dir() and next(path.glob("dsgdb9nsd_*.xyz"), None) is not None:
        files = ((file.name, file.read_text()) for file in sorted(path.glob("dsgdb9nsd_*.xyz")))
        return "xyz", _read_xyz(files, _uncharacterised(folder, uncharacterised))
    if archives and tarfile.is_tarfile(archives[0]):
        return "xyz", _read_xyz(_archive_members(archives[0]), _uncharacterised(folder, uncharacterised))
    if archives and archives[0].name.startswith("dsgdb9nsd"):
        raise DataError(f"{archives[0]}: damaged or incomplete; download it again, or use --source qm9pack")
    if path.is_dir() and (path / "qm9_v3.pt").exists():
        raise DataError(
            f"{path / 'qm9_v3.pt'}: torch-geometric's processed file rounds energies to about 1 meV; "
            "install rdkit so that it downloads gdb9.sdf, or use --source qm9pack"
        )
    raise DataError(
        f"{path}: not dsgdb9nsd.xyz.tar.bz2, nor a folder with dsgdb9nsd_*.xyz or with gdb9.sdf; "
        "pip install qm9pack and use --source qm9pack"
    )


def _read_qm9pack() -> Iterator[SourceMolecule]:
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or spec.origin is None:
        raise DataError("the package qm9pack is not installed: pip install qm9pack (104 MB, MIT)")
    # The CSV files are read directly: importing the package needs pandas and setuptools' removed pkg_resources.
    for part in (1, 2, 3):
        path = Path(spec.origin).parent / "data" / f"qm9_part{part}.csv"
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                yield SourceMolecule(
                    index=int(row["Index"]),
                    symbols=re.findall(r"[A-Z][a-z]?", row["Elements"]),
                    positions=_parse_floats(row["XYZ_Ang"].replace("[", "").replace("]", ""), ",").reshape(-1, 3),
                    properties=[float(row[_QM9PACK_COLUMNS[name]]) for name in TARGETS],
                )


def _parse_floats(text: str, separator: str) -> np.ndarray:
    return np.array([float(item) for item in text.split(separator)])


def _archive_members(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None:
                    yield member.name, file.read().decode()
    except (tarfile.ReadError, EOFError, OSError) as error:
        raise DataError(f"{path}: cannot be read completely ({error}); download it again") from error


def _read_xyz(files: Iterable[tuple[str, str]], excluded: set[int]) -> Iterator[SourceMolecule]:
    for name, text in files:
        match = _XYZ_NAME.search(name)
        if match and int(match.group(1)) not in excluded:
            yield parse_xyz(text, name)


def parse_xyz(text: str, name: str) -> SourceMolecule:
    """Parse one file of the original archive.

    Line 1: number of atoms; line 2: ``gdb``, index, three rotational constants, the twelve properties; then one
    line an atom (element, position in Å, Mulliken charge), the frequencies, SMILES and InChI. A few numbers are
    written as Mathematica does, ``1.5*^-6``.

    Args:
        text: Content of the file.
        name: Its name, for messages.

    Raises:
        DataError: the file is cut off or not of this format.
    """
    lines = text.replace("*^", "e").splitlines()
    try:
        num_atoms = int(lines[0])
        tag, index, *values = lines[1].split()
        atoms = [line.split() for line in lines[2 : 2 + num_atoms]]
        by_name = dict(zip(_XYZ_COLUMNS, map(float, values[_XYZ_ROTATIONAL_CONSTANTS:])))
        if tag != "gdb" or len(atoms) != num_atoms:
            raise ValueError
        return SourceMolecule(
            index=int(index),
            symbols=[atom[0] for atom in atoms],
            positions=np.array([[float(value) for value in atom[1:4]] for atom in atoms]),
            properties=[by_name[target] for target in TARGETS],
        )
    except (ValueError, IndexError, KeyError):
        raise DataError(f"{name}: not a complete file of the dsgdb9nsd archive; extract it again") from None


def _read_sdf(folder: Path, excluded: set[int]) -> Iterator[SourceMolecule]:
    with (folder / "gdb9.sdf").open() as sdf, (folder / "gdb9.sdf.csv").open(newline="") as table:
        for row, block in itertools.zip_longest(csv.DictReader(table), _sdf_blocks(sdf)):
            if row is None or block is None:
                shorter, longer = ("gdb9.sdf", "gdb9.sdf.csv") if block is None else ("gdb9.sdf.csv", "gdb9.sdf")
                raise DataError(f"{folder}: {shorter} has fewer molecules than {longer}; download it again")
            index = int(row["mol_id"].removeprefix("gdb_"))
            if block[0].strip() != row["mol_id"]:
                raise DataError(
                    f"{folder}: gdb9.sdf has {block[0].strip()!r} where gdb9.sdf.csv has {row['mol_id']!r}; "
                    "the two files do not belong together, download them again"
                )
            if index in excluded:
                continue
            atoms = [line.split() for line in block[4 : 4 + int(block[3][:3])]]
            yield SourceMolecule(
                index=index,
                symbols=[atom[3] for atom in atoms],
                positions=np.array([[float(value) for value in atom[:3]] for atom in atoms]),
                properties=[float(row[_SDF_COLUMNS[name]]) for name in TARGETS],
            )


def _sdf_blocks(lines: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    for line in lines:
        if line.startswith("$$$$"):
            yield block
            block = []
        else:
            block.append(line.rstrip("\n"))


def _uncharacterised(folder: Path, path: Path | None) -> set[int]:
    """Indices of the molecules to leave out; the file has a header, one row a molecule and a closing line."""
    candidates = [path] if path else [folder / name for name in _UNCHARACTERISED_NAMES]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise DataError(
            f"{candidates[0]}: the list of uncharacterised molecules is missing; download it from the data set's page "
            "(figshare file 3195404) and give it with --uncharacterised"
        )
    lines = found.read_text().splitlines()
    complete = len(lines) > NUM_UNCHARACTERISED
    rows = [line.split() for line in lines[_UNCHARACTERISED_HEADER_LINES if complete else 0 :]]
    excluded = {int(row[0]) for row in rows if row and row[0].isdigit()}
    if complete and len(excluded) != NUM_UNCHARACTERISED:
        raise DataError(f"{found}: {len(excluded)} molecules instead of {NUM_UNCHARACTERISED}; download it again")
    return excluded
