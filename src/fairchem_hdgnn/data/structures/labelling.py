"""Labels of a sample: energies, forces, convergence of its relaxation; errors name what is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from jaxtyping import Bool, Float

from fairchem_hdgnn.data.structures.references import References, written_sum
from fairchem_hdgnn.data.structures.samples import Sample, StructureError
from fairchem_hdgnn.data.structures.tables import EnergyTable
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE

LARGEST_FORCE = 0.1
"""eV/Å on a free atom; a larger final force means not converged, if nothing else states the convergence."""

SAME_ENERGY = 1e-3
"""eV; two energies of one structure may differ by the rounding of a text file."""


@dataclass(frozen=True)
class Energies:
    """The source of energies, and the references subtracted from them.

    Attributes:
        key: entry of ``atoms.info``, or column of the table.
        table: energies by name.
        slabs, gas: references.
    """

    key: str | None = None
    table: EnergyTable | None = None
    slabs: References | None = None
    gas: References | None = None

    @property
    def referenced(self) -> bool:
        """Whether references are subtracted."""
        return self.slabs is not None or self.gas is not None

    def label(self, sample: Sample, tags: np.ndarray, usual: tuple[str, ...]) -> tuple[float, float, str]:
        """Label of a sample, eV; what was subtracted, eV; and the sum as text, empty if nothing was.

        Args:
            sample: the sample, with ``relaxed`` if its energy is that of the relaxed structure.
            tags: of its atoms [atoms].
            usual: default keys of ``atoms.info`` for the energy.

        Raises:
            DataError: there is no energy, or no reference for it.
        """
        keys: dict[str, str] = {}
        if self.table is not None:
            total, keys = self.table.energy(sample.names, str(sample.path))
        elif self.key is None and "energy" in sample.results:
            total = finite(sample.results["energy"], str(sample), "energy")
        else:
            atoms = sample.initial if sample.relaxed is None else sample.relaxed
            total = energy_of(atoms, str(sample.path if sample.relaxed is not None else sample), self.key, usual)
        if not self.referenced:
            return total, 0.0, ""
        symbols = np.array(sample.initial.get_chemical_symbols())
        names = ["/".join(name) for name in sample.names] + [name[-1] for name in sample.names]
        slab = (
            [] if self.slabs is None else self.slabs.terms(keys.get("slab"), names, symbols[tags != ADSORBATE].tolist())
        )
        gas = [] if self.gas is None else self.gas.terms(keys.get("gas"), names, symbols[tags == ADSORBATE].tolist())
        subtracted = sum(energy for _, energy in [*slab, *gas])
        return total - subtracted, subtracted, written_sum(total, slab, gas)


def energy_of(atoms: Atoms, name: str, key: str | None, usual: tuple[str, ...]) -> float:
    """Energy stored in a structure, eV: in its info, or in its calculator's results.

    Raises:
        StructureError: there is none, or it is not finite.
    """
    keys = [key] if key else list(usual)
    value = next((value for key in keys if (value := atoms.info.get(key, calculated(atoms, key))) is not None), None)
    if value is None:
        known = ", ".join(sorted(map(str, atoms.info))) or "nothing"
        raise StructureError(
            f"{name}: no '{keys[-1]}' (its info has {known}); choose the key with --energy-key, give a table with "
            "--energies, or use --unlabelled"
        )
    energy, other = finite(value, name, "energy"), calculated(atoms, "energy")
    of_info = key is None and value is atoms.info.get("energy")
    if of_info and other is not None and not abs(float(other) - energy) < SAME_ENERGY:
        raise StructureError(
            f"{name}: has two energies, {energy:g} eV in its info and {float(other):g} eV in its calculator's results; "
            "choose the first with --energy-key energy, or remove it"
        )
    return energy


def initial_energy(sample: Sample, key: str | None) -> float | None:
    """Energy of the initial structure, eV, if it is known."""
    if sample.relaxed is None:
        value = sample.initial.info.get("y_init")
        return None if value is None else finite(value, str(sample), "y_init")
    if "initial_energy" in sample.results:
        return finite(sample.results["initial_energy"], str(sample), "initial energy")
    value = sample.initial.info.get(key or "energy", calculated(sample.initial, key or "energy"))
    return None if value is None else finite(value, str(sample), "energy")


def forces_of(atoms: Atoms, name: str, key: str | None) -> Float[torch.Tensor, "atoms 3"]:
    """Forces stored in a structure, eV/Å, without the effect of constraints.

    Raises:
        StructureError: there are none, or not three finite numbers an atom.
    """
    forces = atoms.arrays.get(key) if key else atoms.arrays.get("forces", calculated(atoms, "forces"))
    if forces is None:
        arrays = ", ".join(sorted(set(atoms.arrays) - {"numbers", "positions"})) or "none"
        what = f"'{key}'" if key else "forces"
        raise StructureError(
            f"{name}: no {what}, which S2EF needs (eV/Å; its arrays: {arrays}); choose the array with --forces-key, or "
            "use --task is2re for energies alone"
        )
    forces = np.asarray(forces)
    if forces.shape != (len(atoms), 3) or not np.issubdtype(forces.dtype, np.number) or not np.isfinite(forces).all():
        raise StructureError(f"{name}: its forces are not three finite numbers (eV/Å) for each atom")
    return torch.tensor(forces, dtype=torch.float32)


def not_converged(sample: Sample, fixed: Bool[np.ndarray, "atoms"]) -> str:
    """Why the relaxation, or a frame's electronic loop, did not converge; empty if it did, or if that is unknown."""
    converged = sample.results.get("converged")
    if sample.relaxed is None:
        return "its electronic loop did not converge (VASP's output)" if converged is False else ""
    if converged is True:
        return ""
    if converged is False:
        return "the relaxation did not converge (VASP's output)"
    largest = largest_force(sample.results.get("forces", calculated(sample.relaxed, "forces")), fixed)
    if not largest > LARGEST_FORCE:
        return ""
    return f"the relaxation did not converge (final force on a free atom {largest:.2f} eV/Å; limit {LARGEST_FORCE:g})"


def largest_force(forces: Any, fixed: Bool[np.ndarray, "atoms"]) -> float:
    """Largest force on a free atom, eV/Å; 0 if it is unknown."""
    if forces is None or np.shape(forces) != (len(fixed), 3) or fixed.all():
        return 0.0
    return float(np.linalg.norm(np.asarray(forces)[~fixed], axis=1).max())


def calculated(atoms: Atoms, name: str) -> Any:
    """A stored result, without the effect of constraints on forces."""
    return atoms.calc.results.get(name) if atoms.calc is not None else None


def finite(value: Any, name: str, what: str) -> float:
    """``value`` as a number in eV.

    Raises:
        StructureError: it is none, or not finite.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise StructureError(f"{name}: its {what} is {value!r}, not a number in eV") from None
    if not np.isfinite(number):
        raise StructureError(f"{name}: its {what} is {number}")
    return number
