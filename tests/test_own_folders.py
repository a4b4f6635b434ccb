"""The FG set of GAME-Net, written as the POSCAR and CONTCAR files and the tables of energies that it came from.

Genuine DFT structures: 14 metals, molecules of C, H, N, O and S, gas molecules and a clean slab (MIT licence).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from ase.io import write
from gamenet_files import shared_extract, structures_of

from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, Report, make_lmdb

MOLECULE = [atomic_numbers[element] for element in ("C", "H", "N", "O", "S")]
PAIRS = "*/structures/*.poscar,*/structures/*.contcar"
SAMPLE = 50
"""Systems of the quick tests; the heavy one takes all."""


@dataclass(frozen=True)
class System:
    """One system of the set, energies in eV."""

    name: str
    family: str
    initial: Atoms
    relaxed: Atoms
    total: float
    adsorption: float

    @property
    def of_molecule(self) -> np.ndarray:
        """Which atoms are not of the metal."""
        return np.isin(self.initial.numbers, MOLECULE)


def systems() -> list[System]:
    extract = shared_extract()
    columns = [extract[key].tolist() for key in ("name", "family", "e_total", "e_ads")]
    return [
        System(name, family, *structures_of(extract, row), total, adsorption)
        for row, (name, family, total, adsorption) in enumerate(zip(*columns))
    ]


def write_folders(root: Path, chosen: list[System]) -> None:
    """``FAMILY/structures/NAME.poscar`` with selective dynamics, its ``.contcar``, and a table of energies."""
    for system in chosen:
        folder = root / "set" / system.family / "structures"
        folder.mkdir(parents=True, exist_ok=True)
        for atoms, suffix in ((system.initial, "poscar"), (system.relaxed, "contcar")):
            write(folder / f"{system.name}.{suffix}", atoms, format="vasp", direct=True)
    lines = [f"{system.name} {system.total:.8f}\n" for system in chosen]
    (root / "energies.dat").write_text("".join(lines))


def converted(root: Path, **keys: object) -> tuple[dict[str, object], Report]:
    conversion = Conversion("is2re", pairs=PAIRS, energies=root / "energies.dat", **keys)
    report = make_lmdb(root / "set", root / "out", conversion, progress=False)
    return {record.sid: record for record in Records(root / "out")}, report


def check(root: Path, chosen: list[System]) -> None:
    write_folders(root, chosen)
    records, report = converted(root)
    assert sorted(records) == sorted(system.name for system in chosen)
    assert not report.left_out
    # Three molecules of the whole set stand so high that they come near the next slab.
    assert {check.doubts for check in report.to_check} <= {"vacuum narrower than 5 Å"} and len(report.to_check) <= 3
    for system in chosen:
        record = records[system.name]
        # VASP's files sort nothing here, so that atoms keep their order.
        assert record.atomic_numbers.int().tolist() == system.initial.numbers.tolist()
        fixed = np.isin(np.arange(len(system.initial)), system.initial.constraints[0].index)
        np.testing.assert_array_equal(record.tags.numpy() == 2, system.of_molecule, err_msg=system.name)
        np.testing.assert_array_equal(record.fixed.bool().numpy(), fixed, err_msg=system.name)
        if not system.of_molecule.all():
            # OC20's subsurface atoms are its fixed ones; in these slabs the lower two layers are.
            np.testing.assert_array_equal(record.tags.numpy() == 0, fixed, err_msg=system.name)
        assert record.y_relaxed == pytest.approx(system.total, abs=1e-7)
    kinds = Counter(source.kind for source in report.sources)
    assert kinds["gas"] == sum(system.of_molecule.all() for system in chosen)
    assert kinds["slab"] == sum(not system.of_molecule.any() for system in chosen)
    assert kinds["adsorbed"] == len(chosen) - kinds["gas"] - kinds["slab"]


def test_folders_go_in_with_one_command(tmp_path: Path) -> None:
    every = systems()
    check(tmp_path, every[:: len(every) // SAMPLE])


@pytest.mark.heavy
def test_all_folders_go_in_with_one_command(tmp_path: Path) -> None:
    check(tmp_path, systems())


def test_published_adsorption_energies_come_out_of_references(tmp_path: Path) -> None:
    """E(total) - E(clean slab) - E(gas molecule), by the names of the set: METAL-MOLECULE-SITE."""
    every = systems()
    total = {system.name: system.total for system in every}
    # One molecule has two published energies, so that its systems give no energy of the slab.
    adsorbed = [
        system
        for system in every
        if system.name.count("-") == 2
        and system.name.split("-")[1] in total
        and system.family not in ("group2", "group2b")
    ]
    slabs, chosen = {}, adsorbed[:: len(adsorbed) // SAMPLE]
    for system in adsorbed:
        metal, molecule, _ = system.name.split("-")
        slabs.setdefault(metal, system.total - system.adsorption - total[molecule])
    write_folders(tmp_path, chosen)
    molecules = {system.name.split("-")[1] for system in chosen}
    (tmp_path / "slabs.dat").write_text("".join(f"{metal}-*  {energy:.8f}\n" for metal, energy in slabs.items()))
    (tmp_path / "gas.dat").write_text("".join(f"*-{name}-*  {total[name]:.8f}\n" for name in sorted(molecules)))
    references = {"reference_slabs": tmp_path / "slabs.dat", "reference_gas": tmp_path / "gas.dat"}
    records, report = converted(tmp_path, **references)
    for system in chosen:
        assert records[system.name].y_relaxed == pytest.approx(system.adsorption, abs=1e-6), system.name
    assert all(f"slab {source.id.split('-')[0]}-*" in source.label for source in report.sources)
