"""Structures whose energies both hosts must agree on, and those recorded; no fairchem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, fcc111, hcp0001, molecule

ENERGIES = Path(__file__).parent / "data" / "generations.json"
"""Host -> checkpoint -> structure -> energy (eV) and forces (eV/Å) in that host's own calculator."""

FIRST = ("hdgnn_paper.pt", "hdgnn_authors.pt", "escn.pt")
"""Checkpoints of fairchem-core 1.10: ``test_stored_checkpoints.make``."""

SECOND = ("fairchem2_hdgnn.pt", "fairchem2_escn.pt")
"""What stock trainings with fairchem-core 2.24 wrote: ``fairchem2/fc2_after_training.train``."""


def structures() -> dict[str, Atoms]:
    """A slab with an adsorbate, one in a skewed cell, one with atoms outside its cell, and a molecule."""
    slab = fcc111("Cu", (2, 2, 3), vacuum=6.0, periodic=True)
    add_adsorbate(slab, "O", 1.3, "fcc")
    slab.rattle(0.07, seed=1)
    skewed = hcp0001("Ti", (2, 2, 2), vacuum=6.0, periodic=True)
    add_adsorbate(skewed, molecule("CO"), 1.9, "ontop")
    skewed.set_cell(skewed.cell.array + np.array([[0, 0, 0], [0.4, 0.2, 0], [0.9, -0.7, 0.3]]), scale_atoms=True)
    skewed.rattle(0.07, seed=2)
    outside = slab.copy()
    outside.positions[3] += 2 * outside.cell[0] - outside.cell[1]
    outside.positions[-1] -= outside.cell[1]
    alone = molecule("CH3CH2OH")
    alone.rattle(0.05, seed=3)
    return {"slab": slab, "skewed": skewed, "outside": outside, "molecule": alone}


def found(calculator: Any) -> dict[str, dict[str, Any]]:
    """Energy and, where there are, forces of each structure."""
    results: dict[str, dict[str, Any]] = {}
    for name, atoms in structures().items():
        atoms.calc = calculator
        results[name] = {"energy": atoms.get_potential_energy()}
        if "forces" in calculator.results:
            results[name]["forces"] = atoms.get_forces().tolist()
    return results


def record(host: str, calculators: dict[str, Any]) -> None:
    """Put what one host finds into the file that the other is checked against."""
    stored = json.loads(ENERGIES.read_text()) if ENERGIES.exists() else {}
    stored[host] = {name: found(calculator) for name, calculator in calculators.items()}
    ENERGIES.write_text(json.dumps(stored, indent=1) + "\n")
