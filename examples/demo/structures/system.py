"""One system: from a candidate to a relaxed, checked adsorption energy and to its OC20 record; and a set of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from torch_geometric.data import Data

from fairchem_hdgnn.data.records import atoms_to_record
from structures.adsorbates import place, reference_energy
from structures.anomalies import find_anomaly
from structures.relaxation import NotConvergedError, energy, relax
from structures.slabs import build_slab, relaxed_slab
from structures.splits import Candidate


@dataclass(frozen=True)
class System:
    """A relaxation that counts: start and end (Å) and adsorption energies (eV) relative to slab and gas phase."""

    start: Atoms
    pos_relaxed: np.ndarray
    y_init: float
    y_relaxed: float
    adsorbate: str
    slab: str


@dataclass(frozen=True)
class Relaxed:
    """The systems of a data set, and how they came about.

    Attributes:
        splits: systems of each split.
        left_out: how many relaxations were left out for which reason.
        seed: what decided the systems.
        versions: of the packages that relaxed them.
    """

    splits: dict[str, list[System]]
    left_out: Counter[str]
    seed: int
    versions: dict[str, str]

    @property
    def sizes(self) -> dict[str, int]:
        """Number of systems in each split."""
        return {split: len(systems) for split, systems in self.splits.items()}


def relax_candidate(candidate: Candidate) -> System | str:
    """Relax slab and adsorbate from the bulk-terminated slab, as OC20 does; why it must be left out, if it must."""
    start = place(candidate.adsorbate, build_slab(candidate.slab), np.random.default_rng(candidate.seed))
    try:
        clean, relaxed = relaxed_slab(candidate.slab), relax(start)
    except NotConvergedError:
        return "not converged"
    reference = clean.info["energy"] + reference_energy(candidate.adsorbate)
    y_relaxed = relaxed.info["energy"] - reference
    return find_anomaly(start, relaxed, clean, y_relaxed) or System(
        start=start,
        pos_relaxed=relaxed.positions,
        y_init=energy(start) - reference,
        y_relaxed=y_relaxed,
        adsorbate=candidate.adsorbate,
        slab=str(candidate.slab),
    )


def to_record(system: System, sid: int, labelled: bool) -> Data:
    """An OC20 IS2RE record; without ``labelled`` neither energies nor relaxed positions, as in OC20's test splits.

    ``adsorbate`` and ``slab`` (names) are extra attributes that OC20 keeps in a separate mapping file.
    """
    record = atoms_to_record(system.start, sid)
    record.adsorbate, record.slab = system.adsorbate, system.slab
    if labelled:
        record.y_init, record.y_relaxed = system.y_init, system.y_relaxed
        record.pos_relaxed = record.pos.new_tensor(system.pos_relaxed)
    return record
