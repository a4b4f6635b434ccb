"""The twelve regression targets of QM9: units, atom references and published errors.

Values are those of Ramakrishnan et al., Sci. Data 1, 140022 (2014), B3LYP/6-31G(2df,p). The source files
are in atomic units; what is stored is in the units of the literature, so that a trainer's MAE can be read
beside a published table. Energies U0, U, H and G are stored relative to free atoms, as every published
table does: the sum of the data set's own atom references is subtracted.
"""

from __future__ import annotations

from dataclasses import dataclass

HARTREE_IN_EV = 27.211386245988
"""CODATA 2018."""

HARTREE_IN_MEV = 1000 * HARTREE_IN_EV

ELEMENTS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}
"""Atomic number of each element that occurs in QM9."""


@dataclass(frozen=True)
class Target:
    """One property of a molecule.

    Attributes:
        name: Key in records and configurations.
        symbol: How papers write it.
        description: What it is.
        source_unit: Unit in the data set's own files.
        unit: Unit in records and in the trainer's logs.
        factor: ``stored = factor * source``.
        published_unit: Unit of published tables.
        published_factor: ``published = published_factor * stored``.
        atom_reference: Hartree per free atom, by atomic number, subtracted before conversion; or None.
    """

    name: str
    symbol: str
    description: str
    source_unit: str
    unit: str
    factor: float = 1.0
    published_unit: str = ""
    published_factor: float = 1.0
    atom_reference: dict[int, float] | None = None

    def __post_init__(self) -> None:
        """Published in the stored unit unless said otherwise."""
        if not self.published_unit:
            object.__setattr__(self, "published_unit", self.unit)


def _orbital_energy(name: str, symbol: str, description: str) -> Target:
    return Target(name, symbol, description, "hartree", "meV", HARTREE_IN_MEV)


def _thermochemical(name: str, symbol: str, description: str, references: tuple[float, ...]) -> Target:
    by_element = dict(zip(ELEMENTS.values(), references))
    return Target(name, symbol, description, "hartree", "eV", HARTREE_IN_EV, "meV", 1000.0, by_element)


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("alpha", "α", "isotropic polarisability", "bohr^3", "bohr^3"),
        _orbital_energy("gap", "Δε", "HOMO-LUMO gap"),
        _orbital_energy("homo", "ε_HOMO", "energy of the highest occupied orbital"),
        _orbital_energy("lumo", "ε_LUMO", "energy of the lowest unoccupied orbital"),
        Target("mu", "μ", "norm of the dipole moment", "debye", "debye"),
        Target("cv", "C_v", "heat capacity at 298.15 K", "cal/(mol K)", "cal/(mol K)"),
        _thermochemical(
            "g",
            "G",
            "free energy at 298.15 K relative to free atoms",
            (-0.510927, -37.861317, -54.598897, -75.079532, -99.733544),
        ),
        _thermochemical(
            "h",
            "H",
            "enthalpy at 298.15 K relative to free atoms",
            (-0.497912, -37.844411, -54.581501, -75.062219, -99.716370),
        ),
        Target("r2", "⟨R²⟩", "electronic spatial extent", "bohr^2", "bohr^2"),
        _thermochemical(
            "u",
            "U",
            "internal energy at 298.15 K relative to free atoms",
            (-0.498857, -37.845355, -54.582445, -75.063163, -99.717314),
        ),
        _thermochemical(
            "u0",
            "U₀",
            "internal energy at 0 K relative to free atoms",
            (-0.500273, -37.846772, -54.583861, -75.064579, -99.718730),
        ),
        Target("zpve", "ZPVE", "zero-point vibrational energy", "hartree", "meV", HARTREE_IN_MEV),
    )
}
"""Every target by name, in the order of the published table."""

PUBLISHED_MAE: dict[str, dict[str, float]] = {
    model: dict(zip(TARGETS, row))
    for model, row in {
        "PaiNN": (0.045, 46, 28, 20, 0.012, 0.024, 7.35, 5.98, 0.066, 5.83, 5.85, 1.28),
        "Equiformer": (0.046, 30, 15, 14, 0.011, 0.023, 7.63, 6.63, 0.251, 6.74, 6.59, 1.26),
        "EquiformerV2": (0.050, 29, 14, 13, 0.010, 0.023, 7.57, 6.22, 0.186, 6.49, 6.17, 1.47),
        "HDGNN": (0.046, 32, 18, 16, 0.017, 0.023, 11, 10, 0.342, 8.12, 8.34, 1.21),
    }.items()
}
"""Test MAE in published units: HDGNN from its Table 2, the others from EquiformerV2's Table 5."""
