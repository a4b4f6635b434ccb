"""A small archive in the layout of GAME-Net's FG set, of made-up structures; an extract of the set itself."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.constraints import FixAtoms
from ase.io.vasp import write_vasp

from fairchem_hdgnn.data.npz import read_npz

EXTRACT = Path(__file__).parents[2] / "shared/data/gamenet_fg.npz"

MOLECULES = {"1401": "CH4", "1211": "H2CO", "15N1": "H3CNH2", "14S1": "CH3SH", "0211": "H2O"}
"""Name -> that in ASE's collection. Numbers of C, H and O (or another element's letter), then that of the isomer."""

FAMILIES = {"1401": "group2", "1211": "group2", "0211": "group2", "15N1": "group3N", "14S1": "group3S"}
METALS = {"pd": ("Pd", 3.89), "cu": ("Cu", 3.61)}
SITES = ("a", "b")

ATOM_ENERGIES = {"H": -3.5, "C": -9.0, "N": -8.0, "O": -7.0, "S": -4.5, "Pd": -5.0, "Cu": -3.6}
"""eV; the energies of the archive are sums of them, plus what a test adds."""


@dataclass
class Files:
    """What the archive holds.

    Attributes:
        structures: path in the archive -> structure.
        energies: rows of energies.dat: name, eV.
        initial_energies: rows of energies_i.dat.
        groups: rows of groups.dat: name, family.
    """

    structures: dict[str, Atoms] = field(default_factory=dict)
    energies: list[tuple[str, float]] = field(default_factory=list)
    initial_energies: list[tuple[str, float]] = field(default_factory=list)
    groups: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, family: str, initial: Atoms, relaxed: Atoms, extra: float = 0.0) -> None:
        """Add a system whose energy is that of its atoms and ``extra``, eV."""
        self.structures[f"{family}/structures/{name}.poscar"] = initial
        self.structures[f"{family}/structures/{name}.contcar"] = relaxed
        self.groups.append((name, family))
        energy = sum(ATOM_ENERGIES[symbol] for symbol in initial.get_chemical_symbols()) + extra
        self.energies.append((name, energy))
        self.initial_energies.append((name, energy + 0.5))

    def texts(self) -> dict[str, str]:
        """Path -> content of every file."""
        texts = {}
        for path, atoms in self.structures.items():
            buffer, copy = io.StringIO(), atoms.copy()
            has_volume = copy.cell.volume > 0
            if has_volume:
                copy.wrap(eps=0)
            write_vasp(buffer, copy, direct=has_volume)
            texts[path] = buffer.getvalue()
        texts["energies.dat"] = "".join(f"{name} {energy:.8f}\n" for name, energy in self.energies)
        texts["energies_i.dat"] = "".join(f"{name} {energy:.8f}\n" for name, energy in self.initial_energies)
        texts["groups.dat"] = "".join(f"{name} {family}\n" for name, family in self.groups)
        return texts

    def unpacked(self, folder: Path) -> Path:
        """Write them as a folder."""
        for path, text in self.texts().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        return folder

    def packed(self, path: Path) -> Path:
        """Write them as ``.tar.xz``."""
        with tarfile.open(path, "w:xz") as archive:
            for name, text in self.texts().items():
                member = tarfile.TarInfo(name)
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return path


def slab(metal: str) -> Atoms:
    """Four layers, the lower two fixed, in a skew cell."""
    symbol, constant = METALS[metal]
    atoms = fcc111(symbol, (2, 2, 4), a=constant, vacuum=8.0, periodic=True)
    atoms.set_tags(0)
    atoms.set_constraint(FixAtoms(mask=atoms.positions[:, 2] < atoms.positions[:, 2].mean()))
    return atoms


def gas(name: str) -> Atoms:
    """A molecule in a box of 12 Å."""
    atoms = molecule(MOLECULES[name], cell=[12.0, 12.0, 12.0], pbc=True)
    atoms.center()
    return atoms


def adsorbed(metal: str, name: str, site: str) -> Atoms:
    """The molecule at a corner of the cell, so that a part of it lies beyond."""
    atoms = slab(metal)
    add_adsorbate(atoms, molecule(MOLECULES[name]), 2.5 if site == "a" else 3.0, (0.1, 0.1))
    return atoms


def moved(atoms: Atoms, by: float = 0.3) -> Atoms:
    """Moved along the first cell vector where it is not fixed, across the boundary for some."""
    relaxed = atoms.copy()
    direction = -atoms.cell[0] / np.linalg.norm(atoms.cell[0])
    free = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        free[constraint.index] = False
    relaxed.set_positions(atoms.positions + by * free[:, None] * direction, apply_constraint=False)
    return relaxed


def example(sites: tuple[str, ...] = SITES) -> Files:
    """All molecules in the gas phase and on both metals, and a clean slab that is a system of its own."""
    files = Files()
    for name, family in FAMILIES.items():
        files.add(name, family, gas(name), moved(gas(name)))
        for metal in METALS:
            for site in sites:
                atoms = adsorbed(metal, name, site)
                files.add(f"{metal}-{name}-{site}", family, atoms, moved(atoms), extra=-1.0 if site == "a" else -0.6)
    files.add("pd-0000", "metal_surfaces", slab("pd"), moved(slab("pd")), extra=0.2)
    for metal, (symbol, _) in METALS.items():
        energy = 16 * ATOM_ENERGIES[symbol] + 0.2
        files.structures.setdefault(f"metal_surfaces/structures/{metal}-0000.contcar", slab(metal))
        files.energies.append((f"{metal}-0000", energy))
        files.initial_energies.append((f"{metal}-0000", energy))
    return files


def shared_extract() -> dict[str, np.ndarray]:
    """2,604 systems of the set, all concatenated; skips the test where they are not at hand."""
    if not EXTRACT.exists():
        pytest.skip("needs ../shared/data/gamenet_fg.npz, an extract of the set")
    return read_npz(EXTRACT)


def structures_of(extract: dict[str, np.ndarray], row: int) -> tuple[Atoms, Atoms]:
    """Initial and relaxed structure of a system of the extract."""
    part = slice(extract["ptr"][row], extract["ptr"][row + 1])
    numbers, cell = extract["numbers"][part], extract["cell"][row]
    fixed = FixAtoms(mask=extract["fixed"][part])
    return tuple(  # type: ignore[return-value]
        Atoms(numbers, extract[key][part], cell=cell, pbc=True, constraint=fixed) for key in ("pos", "pos_relaxed")
    )
