"""The archive in which GAME-Net's authors publish the FG set, packed or unpacked: its structures and DFT energies.

``FG_dataset_lite.tar.xz`` holds::

    FAMILY/structures/NAME.poscar     initial structure, VASP's format
    FAMILY/structures/NAME.contcar    relaxed structure
    energies.dat                      "NAME eV": DFT energy of the relaxed structure
    energies_i.dat                    the same for the initial structure: first converged SCF cycle
    groups.dat                        "NAME FAMILY", one row per system

``NAME`` is ``MOLECULE`` in the gas phase, ``METAL-MOLECULE-SITE`` when adsorbed, ``METAL-0000`` for a clean slab.

Sixty names occur twice, in ``group2`` and in ``group2b``, for isomers with different structures and energies. The n-th
energy of such a name belongs to the n-th family in ``groups.dat``. One system of each name is used, the one whose
energy the authors list as target: the first on a metal, the last in the gas phase.

Clean slabs occur again at the end of both energy files, with relaxed energies; the first row is used.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from fairchem_hdgnn.errors import DataError

ARCHIVE = "FG_dataset_lite.tar.xz"
RELAXED_ENERGIES, INITIAL_ENERGIES, GROUPS = "energies.dat", "energies_i.dat", "groups.dat"
INITIAL, RELAXED = ".poscar", ".contcar"
SLAB = "0000"

Kind = Literal["adsorbed", "gas", "slab"]


@dataclass(frozen=True)
class System:
    """One system of the set.

    Attributes:
        name: its published name.
        family: chemical family, which is also the name of the folder.
        kind: molecule on a slab, molecule in the gas phase, or clean slab.
        initial: text of the POSCAR.
        relaxed: text of the CONTCAR.
        initial_energy: total DFT energy of the initial structure, eV.
        energy: total DFT energy of the relaxed structure, eV.
    """

    name: str
    family: str
    kind: Kind
    initial: str
    relaxed: str
    initial_energy: float
    energy: float


class Archive:
    """The published files, read but not yet parsed as structures.

    Attributes:
        source: where they were read.
        rows: ``(name, family)`` of each row of ``groups.dat``, in its order.

    Raises:
        DataError: the source is missing, damaged or another archive, or a table has a row of another form.
    """

    def __init__(self, source: Path) -> None:
        self.source = source
        self._texts = dict(_texts(source))
        if missing := [name for name in (GROUPS, RELAXED_ENERGIES, INITIAL_ENERGIES) if name not in self._texts]:
            raise DataError(f"{source}: contains no {missing[0]}; give {ARCHIVE}, or the folder with its contents")
        self.rows = list(dict.fromkeys(self._table(GROUPS)))
        self._families: dict[str, list[str]] = {}
        self._kinds: dict[str, Kind] = {}
        for name, family in self.rows:
            kind = kind_of(name)
            if kind is None:
                raise DataError(
                    f"{source}: {name!r} in {GROUPS} is not a valid name; valid are MOLECULE, METAL-MOLECULE-SITE "
                    f"and METAL-{SLAB}"
                )
            self._kinds[name] = kind
            self._families.setdefault(name, []).append(family)
        self._energies = {file: self._numbers(file) for file in (RELAXED_ENERGIES, INITIAL_ENERGIES)}

    def systems(self, *, partial: bool = False) -> list[System]:
        """The systems, one of each name, in the order of ``groups.dat``.

        Args:
            partial: skip systems without structures instead of raising an error.

        Raises:
            DataError: a structure or an energy is missing, or a structure is not in its family's folder.
        """
        self._refuse_strays()
        systems = []
        for name, families in self._families.items():
            family = self._family(name)
            texts = [self._texts.get(f"{family}/structures/{name}{suffix}") for suffix in (INITIAL, RELAXED)]
            if partial and texts == [None, None]:
                continue
            for text, suffix in zip(texts, (INITIAL, RELAXED)):
                if text is None:
                    raise DataError(
                        f"{self.source}: {GROUPS} assigns {name} to {family}, but there is no "
                        f"{family}/structures/{name}{suffix}; get the archive again"
                    )
            place = families.index(family)
            energies = [self._energy(file, name, place) for file in (INITIAL_ENERGIES, RELAXED_ENERGIES)]
            systems.append(System(name, family, self._kinds[name], str(texts[0]), str(texts[1]), *energies))
        return systems

    def separated(self, system: System) -> float:
        """Energy of the clean slab plus that of the molecule in the gas phase, both relaxed, eV, of an adsorbed system.

        Raises:
            DataError: one of the two energies is missing.
        """
        metal, molecule, _ = system.name.split("-")
        total = 0.0
        for name in (f"{metal}-{SLAB}", molecule):
            if name not in self._energies[RELAXED_ENERGIES]:
                raise DataError(
                    f"{self.source}: {RELAXED_ENERGIES} has no {name}, which the adsorption energy of {system.name} "
                    "needs; get the archive again, or use --target total"
                )
            families = self._families.get(name, [])
            place = families.index(system.family) if system.family in families else 0
            total += self._energy(RELAXED_ENERGIES, name, place)
        return total

    def _family(self, name: str) -> str:
        return self._families[name][-1 if self._kinds[name] == "gas" else 0]

    def _table(self, file: str) -> Iterator[tuple[str, str]]:
        for number, line in enumerate(self._texts[file].splitlines(), start=1):
            if words := line.split():
                if len(words) != 2:
                    raise DataError(f"{self.source}: line {number} of {file} is {line!r}, not a name and a value")
                yield words[0], words[1]

    def _numbers(self, file: str) -> dict[str, list[float]]:
        numbers: dict[str, list[float]] = {}
        for name, text in self._table(file):
            try:
                value = float(text)
            except ValueError:
                value = np.nan
            if not np.isfinite(value):
                raise DataError(f"{self.source}: {file} has {text!r} for {name}, not an energy in eV")
            numbers.setdefault(name, []).append(value)
        return numbers

    def _energy(self, file: str, name: str, place: int) -> float:
        """Energy of ``name`` in the family at index ``place`` of that name's families."""
        values = self._energies[file].get(name, [])
        if not values:
            raise DataError(f"{self.source}: {file} has no energy of {name}; get the archive again")
        if len(values) == len(self._families.get(name, [])):
            return values[place]
        if len(set(values)) > 1 and kind_of(name) != "slab":
            raise DataError(
                f"{self.source}: {file} has {len(values)} different energies of {name}, but {GROUPS} has "
                f"{len(self._families.get(name, []))} rows; keep one energy per row"
            )
        return values[0]

    def _refuse_strays(self) -> None:
        """Check that every structure, except clean slabs, has a row in ``groups.dat``."""
        for path in self._texts:
            if path.endswith((INITIAL, RELAXED)):
                name, family = PurePosixPath(path).stem, path.split("/")[0]
                if name not in self._families and kind_of(name) != "slab":
                    raise DataError(
                        f"{self.source}: {GROUPS} has no row of {path}; add '{name} {family}', or remove it"
                    )
                if family not in self._families.get(name, [family]):
                    raise DataError(
                        f"{self.source}: {path} is in {family}, but {GROUPS} assigns {name} to "
                        f"{self._families[name][0]}; move it there"
                    )


def kind_of(name: str) -> Kind | None:
    """Kind of a system from its published name; ``None`` if the name has none of the three forms."""
    words = name.split("-")
    if not all(words):
        return None
    if len(words) == 2:
        return "slab" if words[1] == SLAB else None
    if len(words) == 1:
        return "gas"
    return "adsorbed" if len(words) == 3 else None


def _texts(source: Path) -> Iterator[tuple[str, str]]:
    """Path in the archive and text of each table and structure."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder; download {ARCHIVE} first (docs/evidence.md says where)")
    name = "?"
    try:
        for name, content in _folder(source) if source.is_dir() else _packed(source):
            yield name, content.decode()
    except UnicodeDecodeError:
        raise DataError(f"{source}: {name} is not a text file; get the archive again") from None


def _folder(source: Path) -> Iterator[tuple[str, bytes]]:
    paths = [path for path in sorted([*source.glob("*.dat"), *source.glob("*/structures/*")]) if path.is_file()]
    for path in paths:
        if _is_wanted(name := path.relative_to(source).as_posix()):
            yield name, path.read_bytes()


def _packed(source: Path) -> Iterator[tuple[str, bytes]]:
    if not tarfile.is_tarfile(source):
        raise DataError(f"{source}: not a tar archive, or truncated; download {ARCHIVE} again")
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                name = PurePosixPath(member.name).as_posix()
                file = archive.extractfile(member) if member.isfile() and _is_wanted(name) else None
                if file is not None:
                    yield name, file.read()
    except Exception as error:  # each compression raises its own errors
        reason = " ".join(str(error).split())
        raise DataError(f"{source}: damaged ({reason}); download {ARCHIVE} again") from error


def _is_wanted(name: str) -> bool:
    words = name.split("/")
    if words[-1].startswith("."):
        return False
    if len(words) == 1:
        return name in (GROUPS, RELAXED_ENERGIES, INITIAL_ENERGIES)
    return len(words) == 3 and words[1] == "structures" and name.endswith((INITIAL, RELAXED))
