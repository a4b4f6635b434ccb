"""Relaxation with EMT: a real potential energy surface that costs milliseconds, but not chemistry."""

from __future__ import annotations

from ase import Atoms
from ase.calculators.emt import EMT
from ase.optimize import BFGS

FORCE_LIMIT = 0.05
"""A structure is relaxed when no free atom feels more than this, eV/Å."""

MAX_STEPS = 300


class NotConvergedError(RuntimeError):
    """A relaxation that did not reach ``FORCE_LIMIT`` within ``MAX_STEPS`` steps."""


def relax(start: Atoms) -> Atoms:
    """A relaxed copy of ``start``, its energy (eV) in ``info["energy"]``.

    Raises:
        NotConvergedError: if it is not relaxed after ``MAX_STEPS`` steps.
    """
    atoms = start.copy()
    atoms.calc = EMT()
    with BFGS(atoms, logfile=None, maxstep=0.1) as optimizer:
        converged = optimizer.run(fmax=FORCE_LIMIT, steps=MAX_STEPS)
    if not converged:
        raise NotConvergedError(f"{start.get_chemical_formula()} not relaxed after {MAX_STEPS} steps")
    atoms.info["energy"] = float(atoms.get_potential_energy())
    atoms.calc = None
    return atoms


def energy(atoms: Atoms) -> float:
    """EMT energy of a structure as it stands, eV."""
    copy = atoms.copy()
    copy.calc = EMT()
    return float(copy.get_potential_energy())
