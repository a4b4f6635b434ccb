"""Slabs with adsorbates as people build them; what is adsorbate is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ase import Atoms
from ase.build import (
    add_adsorbate,
    bcc110,
    bulk,
    fcc100,
    fcc111,
    fcc211,
    graphene,
    molecule,
    mx2,
    surface,
)
from ase.cluster import Icosahedron
from ase.spacegroup import crystal

Case = tuple[Atoms, list[int]]
"""A structure, and which of its atoms are adsorbate."""

UP = np.array([0.0, 0.0, 1.0])

CASES: dict[str, Callable[[], Case]] = {}
"""Name -> what makes it."""


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    CASES[function.__name__] = function
    return function


def put(slab: Atoms, added: Atoms | str, at: Sequence[float]) -> Case:
    """The slab with ``added``, its first atom at the given place."""
    group = Atoms(added) if isinstance(added, str) else added.copy()
    group.positions += np.asarray(at) - group.positions[0]
    slab = slab.copy()
    slab.set_tags(0)
    slab.pbc = True
    count = len(slab)
    slab += group
    slab.info.clear()
    return slab, list(range(count, len(slab)))


def put_on(slab: Atoms, added: Atoms | str, height: float, site: str | tuple[float, float] = "fcc") -> Case:
    """The same on a named site."""
    group = Atoms(added) if isinstance(added, str) else added.copy()
    whole = slab.copy()
    add_adsorbate(whole, Atoms("X"), height, site)
    return put(slab, group, whole.positions[-1])


def linear(symbols: str, step: float) -> Atoms:
    return Atoms(symbols, [(0, 0, step * n) for n in range(len(Atoms(symbols)))])


def bent(symbols: str, *places: tuple[float, float, float]) -> Atoms:
    return Atoms(symbols, [(0, 0, 0), *places])


OH = bent("OH", (0.8, 0, 0.55))
OOH = bent("OOH", (1.1, 0, 0.9), (1.8, 0.2, 0.3))


# === metals ======================================================================================


def pt111() -> Atoms:
    return fcc111("Pt", (3, 3, 4), vacuum=9.0)


for name, group, height, site in [
    ("o_on_pt", Atoms("O"), 1.2, "fcc"),
    ("s_on_pt", Atoms("S"), 1.6, "fcc"),
    ("cl_on_pt", Atoms("Cl"), 1.8, "fcc"),
    ("f_on_pt", Atoms("F"), 1.95, "ontop"),
    ("i_on_pt", Atoms("I"), 2.2, "fcc"),
    ("h_on_pt", Atoms("H"), 0.9, "fcc"),
    ("ph3_on_pt", molecule("PH3"), 2.3, "ontop"),
    ("so2_on_pt", molecule("SO2"), 2.1, "bridge"),
    ("sih3_on_pt", molecule("SiH3"), 2.3, "ontop"),
    ("bh2_on_pt", bent("BHH", (1.0, 0, 0.6), (-1.0, 0, 0.6)), 2.0, "ontop"),
    ("ch3oh_far_from_pt", molecule("CH3OH"), 3.6, "ontop"),
    ("argon_on_pt", Atoms("Ar"), 3.3, "ontop"),
    ("benzene_on_pt", molecule("C6H6"), 2.2, "bridge"),
]:
    CASES[name] = lambda group=group, height=height, site=site: put_on(pt111(), group, height, site)


@case
def clean_pt():
    return _bare(pt111()), []


def _bare(slab: Atoms) -> Atoms:
    slab.set_tags(0)
    slab.pbc = True
    slab.info.clear()
    return slab


@case
def n_on_fe110():
    return put_on(bcc110("Fe", (2, 3, 4), vacuum=9.0), "N", 1.1, "hollow")


@case
def co_on_cu100():
    return put_on(fcc100("Cu", (2, 2, 4), vacuum=9.0), linear("CO", 1.15), 1.8, "ontop")


@case
def subsurface_h_in_pd():
    slab = fcc111("Pd", (2, 2, 4), vacuum=9.0)
    layers = np.unique(slab.positions[:, 2].round(3))
    above = slab.positions[slab.get_tags() == 1][0]
    return put(slab, "H", (*above[:2], (layers[-1] + layers[-2]) / 2 - 0.1))


@case
def co_at_the_foot_of_a_step():
    slab = fcc211("Pt", (3, 3, 3), vacuum=9.0)
    order = np.argsort(-slab.positions[:, 2])
    levels = np.unique(slab.positions[:, 2].round(2))[::-1]
    foot = slab.positions[order][np.isclose(slab.positions[order][:, 2], levels[2], atol=0.05)][0]
    return put(slab, linear("CO", 1.15), foot + np.array([-0.4, 0, 1.85]))


@case
def k_on_cu111():
    return put_on(fcc111("Cu", (3, 3, 4), vacuum=9.0), "K", 2.7)[0], []


@case
def quarter_layer_of_k_on_cu111():
    return put_on(fcc111("Cu", (2, 2, 4), vacuum=9.0), "K", 2.7)[0], []


@case
def lithium_and_co_on_cu111():
    slab, _ = put_on(fcc111("Cu", (3, 3, 4), vacuum=9.0), "Li", 2.0)
    top = slab.positions[slab.positions[:-1, 2].argmax()]
    return put(slab, linear("CO", 1.15), top + 1.85 * UP)


@case
def graphene_on_ni():
    slab = fcc111("Ni", (2, 2, 3), a=3.48, vacuum=9.0)
    unit = Atoms("C2", cell=fcc111("Ni", (1, 1, 1), a=3.48, vacuum=9.0).cell, pbc=True)
    unit.set_scaled_positions([(0, 0, 0), (1 / 3, 1 / 3, 0)])
    layer = unit.repeat((2, 2, 1))
    layer.positions[:, 2] = slab.positions[:, 2].max() + 2.1
    slab += layer
    return put(slab, "H", layer.positions[0] + 1.12 * UP)


# === oxides ======================================================================================


def rutile(metal: str, a: float, c: float, u: float) -> Atoms:
    unit = crystal([metal, "O"], [(0, 0, 0), (u, u, 0)], spacegroup=136, cellpar=[a, a, c, 90, 90, 90])
    slab = surface(unit, (1, 1, 0), 3, vacuum=0.0)
    # ASE cuts above the cus metals' topmost O and above the lower side's bridging O.
    del slab[slab.positions[:, 2].argmax()]
    lower = slab[[slab.positions[:, 2].argmax()]]
    metals = slab.positions[slab.numbers != 8, 2]
    lower.positions[:, 2] = metals.min() + metals.max() - lower.positions[:, 2]
    slab = (slab + lower).repeat((1, 2, 1))
    slab.center(vacuum=9.0, axis=2)
    return slab


def cus(slab: Atoms) -> np.ndarray:
    """A metal atom of the top layer with five O neighbours."""
    metal = np.flatnonzero(slab.numbers != 8)
    top = [i for i in metal if slab.positions[i, 2] > slab.positions[metal, 2].max() - 0.3]
    return slab.positions[min(top, key=lambda i: (slab.get_distances(i, slab.symbols == "O", mic=True) < 2.3).sum())]


def bridging(slab: Atoms) -> np.ndarray:
    return slab.positions[slab.positions[:, 2].argmax()]


for metal, a, c, u in [("Ti", 4.594, 2.959, 0.305), ("Ru", 4.492, 3.107, 0.306)]:
    parts = (metal, a, c, u)
    for label, group in [("o", Atoms("O")), ("oh", OH), ("ooh", OOH), ("co", linear("CO", 1.15))]:
        CASES[f"{label}_on_cus_of_{metal.lower()}o2"] = lambda parts=parts, group=group: put(
            rutile(*parts), group, cus(rutile(*parts)) + 1.85 * UP
        )
    CASES[f"h_on_bridging_o_of_{metal.lower()}o2"] = lambda parts=parts: put(
        rutile(*parts), "H", bridging(rutile(*parts)) + 0.98 * UP
    )
    CASES[f"clean_{metal.lower()}o2"] = lambda parts=parts: (_bare(rutile(*parts)), [])


def rocksalt(metal: str, a: float, anion: str = "O") -> Atoms:
    slab = surface(bulk(metal + anion, "rocksalt", a=a, cubic=True), (1, 0, 0), 2, vacuum=0.0)
    slab = slab.repeat((2, 2, 1)) if slab.cell.lengths()[0] < 5 else slab
    slab.center(vacuum=9.0, axis=2)
    return slab


def top_atom(slab: Atoms, symbol: str) -> np.ndarray:
    indices = np.flatnonzero(np.array(slab.symbols) == symbol)
    return slab.positions[indices[slab.positions[indices, 2].argmax()]]


@case
def co2_as_carbonate_on_mgo():
    slab = rocksalt("Mg", 4.21)
    carbon = bent("COO", (1.1, 0, 0.6), (-1.1, 0, 0.6))
    return put(slab, carbon, top_atom(slab, "O") + 1.4 * UP)


@case
def co2_far_from_mgo():
    slab = rocksalt("Mg", 4.21)
    return put(slab, molecule("CO2"), top_atom(slab, "Mg") + 3.2 * UP)


@case
def water_split_on_mgo():
    slab = rocksalt("Mg", 4.21)
    slab, first = put(slab, OH, top_atom(slab, "Mg") + 2.0 * UP)
    oxygen = [i for i in np.flatnonzero(slab.numbers == 8) if i not in first]
    site = slab.positions[max(oxygen, key=lambda i: slab.positions[i, 2])]
    slab, second = put(slab, "H", site + 0.98 * UP)
    return slab, first + second


@case
def o_on_nio():
    slab = rocksalt("Ni", 4.18)
    return put(slab, "O", top_atom(slab, "Ni") + 1.75 * UP)


@case
def ooh_on_nio():
    slab = rocksalt("Ni", 4.18)
    return put(slab, OOH, top_atom(slab, "Ni") + 1.85 * UP)


def perovskite(top: str) -> Atoms:
    unit = Atoms(
        "LaMnO3",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5)],
        cell=[3.9, 3.9, 3.9],
        pbc=True,
    )
    slab = unit.repeat((2, 2, 3))
    slab.center(vacuum=9.0, axis=2)
    if top == "La":
        slab.rotate(180, "x", center="COU")
        slab.set_cell(slab.cell)
        slab.wrap(pbc=(True, True, False))
    return slab


@case
def oh_on_mn_of_lamno3():
    slab = perovskite("Mn")
    return put(slab, OH, top_atom(slab, "Mn") + 1.85 * UP)


@case
def o_on_mn_of_lamno3():
    slab = perovskite("Mn")
    return put(slab, "O", top_atom(slab, "Mn") + 1.65 * UP)


@case
def h_on_o_of_lamno3():
    slab = perovskite("La")
    return put(slab, "H", top_atom(slab, "O") + 0.98 * UP)


# === carbides, nitrides, sulphides, hydrides, carbonates ==========================================


def cut(unit: Atoms, indices: tuple[int, int, int], layers: int, shift: float = 0.2) -> Atoms:
    """A slab whose lower side lies ``shift`` Å below the origin's plane."""
    slab = surface(unit, indices, layers, vacuum=None, periodic=True)
    slab.positions += shift * slab.cell[2] / slab.cell.lengths()[2]
    slab.wrap()
    slab.center(vacuum=9.0, axis=2)
    return slab


@case
def co_on_c_of_tic():
    slab = rocksalt("Ti", 4.33, "C")
    return put(slab, linear("CO", 1.2), top_atom(slab, "C") + 1.4 * UP)


@case
def h_on_n_of_tin():
    slab = rocksalt("Ti", 4.24, "N")
    return put(slab, "H", top_atom(slab, "N") + 1.05 * UP)


@case
def n2_on_tin():
    slab = rocksalt("Ti", 4.24, "N")
    return put(slab, linear("N2", 1.1), top_atom(slab, "Ti") + 2.1 * UP)


def pyrite() -> Atoms:
    sites = [(0, 0, 0), (0.385, 0.385, 0.385)]
    return cut(crystal(["Fe", "S"], sites, spacegroup=205, cellpar=[5.42] * 3 + [90] * 3), (1, 0, 0), 2, 1.0)


@case
def clean_pyrite():
    return _bare(pyrite()), []


@case
def h_on_s_of_pyrite():
    return put(pyrite(), "H", top_atom(pyrite(), "S") + 1.35 * UP)


@case
def co_on_palladium_hydride():
    slab = fcc111("Pd", (2, 2, 4), vacuum=9.0)
    lower = slab.positions[:-4]
    sites = (slab.cell[0] + slab.cell[1]) / 3 + UP * (slab.positions[4, 2] - slab.positions[0, 2]) / 2
    return put(slab + Atoms(f"H{len(lower)}", lower + sites), linear("CO", 1.15), slab.positions[-1] + 1.9 * UP)


def calcite() -> Atoms:
    sites, lengths = [(0, 0, 0), (0, 0, 0.25), (0.257, 0, 0.25)], [4.99, 4.99, 17.06, 90, 90, 120]
    return cut(crystal(["Ca", "C", "O"], sites, spacegroup=167, cellpar=lengths), (1, 0, 4), 3, 1.2)


@case
def co2_over_calcite():
    return put(calcite(), molecule("CO2"), top_atom(calcite(), "Ca") + 3.2 * UP)


@case
def ooh_on_hematite():
    sites, lengths = [(0, 0, 0.3553), (0.306, 0, 0.25)], [5.04, 5.04, 13.75, 90, 90, 120]
    slab = cut(crystal(["Fe", "O"], sites, spacegroup=167, cellpar=lengths), (0, 0, 1), 1, 0.3)
    return put(slab, OOH, top_atom(slab, "Fe") + 1.9 * UP)


@case
def carbonate_on_zno():
    slab = surface(bulk("ZnO", "wurtzite", a=3.25, c=5.2), (1, 0, 0), 3, vacuum=9.0).repeat((2, 1, 1))
    return put(slab, bent("COO", (1.1, 0, 0.6), (-1.1, 0, 0.6)), top_atom(slab, "O") + 1.4 * UP)


# === layers ======================================================================================


def mos2() -> Atoms:
    return mx2("MoS2", "2H", size=(3, 3, 1), vacuum=9.0)


@case
def h_on_mos2():
    slab = mos2()
    return put(slab, "H", top_atom(slab, "S") + 1.35 * UP)


@case
def n2_over_vacancy_of_mos2():
    slab = mos2()
    gone = int(np.flatnonzero(slab.numbers == 16)[slab.positions[slab.numbers == 16, 2].argmax()])
    place = slab.positions[gone]
    del slab[gone]
    return put(slab, linear("N2", 1.1), place + 0.6 * UP)


@case
def o_on_s_of_mos2():
    slab = mos2()
    return put(slab, "O", top_atom(slab, "S") + 1.5 * UP)


@case
def s_on_s_of_mos2():
    slab = mos2()
    return put(slab, "S", top_atom(slab, "S") + 1.95 * UP)


def ti3c2(termination: str) -> Atoms:
    a, sites = 3.05, [(0, 0), (1 / 3, 2 / 3), (2 / 3, 1 / 3)]
    layers = [("Ti", 1, -2.3), ("C", 2, -1.3), ("Ti", 0, 0.0), ("C", 1, 1.3), ("Ti", 2, 2.3)]
    layers += [("O", 0, 3.3), ("O", 0, -3.3)] if termination else []
    layers += [("H", 0, 4.28), ("H", 0, -4.28)] if termination == "OH" else []
    cell = [(a, 0, 0), (-a / 2, a * 3**0.5 / 2, 0), (0, 0, 28.0)]
    flat = np.array(cell)
    positions = [sites[site][0] * flat[0] + sites[site][1] * flat[1] + (14 + z) * UP for _, site, z in layers]
    return Atoms([symbol for symbol, _, _ in layers], positions, cell=cell, pbc=True).repeat((3, 3, 1))


for termination in ("", "O", "OH"):
    CASES[f"n2_on_ti3c2{termination.lower()}"] = lambda termination=termination: put(
        ti3c2(termination), linear("N2", 1.1), ti3c2(termination).positions[:, 2:].max() * UP + np.array([1, 1, 2.2])
    )


@case
def h_on_o_of_ti3c2o2():
    slab = ti3c2("O")
    return put(slab, "H", top_atom(slab, "O") + 0.98 * UP)


def hydroxide() -> Atoms:
    """A layer of Ni(OH)2."""
    a = 3.13
    cell = np.array([(a, 0, 0), (-a / 2, a * 3**0.5 / 2, 0), (0, 0, 20.0)])
    places = [(0, 0, 0.5), (1 / 3, 2 / 3, 0.55), (2 / 3, 1 / 3, 0.45), (1 / 3, 2 / 3, 0.599), (2 / 3, 1 / 3, 0.401)]
    return Atoms("NiOOHH", places @ cell, cell=cell, pbc=True).repeat((3, 3, 1))


@case
def water_over_nickel_hydroxide():
    return put(hydroxide(), molecule("H2O"), (3, 3, 15.0))


@case
def nickel_hydroxide_without_one_h():
    layer = hydroxide()
    del layer[3]
    return _bare(layer), []


@case
def h_on_nickel_oxide_layer():
    layer = hydroxide()
    layer = layer[layer.numbers != 1]
    return put(layer, "H", top_atom(layer, "O") + 0.98 * UP)


@case
def o2_on_nickel_cyanide_net():
    a = 1.9 + 1.16 + 1.9
    places = [(0, 0, 10), (1.9, 0, 10), (3.06, 0, 10), (0, 1.9, 10), (0, 3.06, 10)]
    net = Atoms("NiCNCN", places, cell=[a, a, 20], pbc=True).repeat((2, 2, 1))
    return put(net, bent("OO", (1.0, 0, 0.75)), net.positions[0] + 1.9 * UP)


def sheet() -> Atoms:
    layer = graphene(size=(4, 4, 1))
    layer.cell[2] = [0, 0, 20]
    layer.positions[:, 2] = 10
    layer.pbc = True
    return layer


@case
def oh_on_graphene():
    layer = sheet()
    return put(layer, OH, layer.positions[9] + 1.45 * UP)


@case
def epoxide_on_graphene():
    layer = sheet()
    other = layer.get_distances(9, range(len(layer)), mic=True, vector=True)
    near = other[np.argsort(np.linalg.norm(other, axis=1))[1]]
    return put(layer, "O", layer.positions[9] + near / 2 + 1.25 * UP)


@case
def water_over_graphene():
    return put(sheet(), molecule("H2O"), (3, 3, 13.1))


@case
def phenyl_on_graphene():
    layer = sheet()
    ring = molecule("C6H6")
    ring.rotate(90, "x")
    ring.rotate(90, "y")
    ring = ring[np.argsort(ring.positions[:, 2])][1:]
    return put(layer, ring, layer.positions[9] + 1.55 * UP)


@case
def graphane():
    layer = sheet()
    side = np.array([1 if i % 2 else -1 for i in range(len(layer))])
    layer.positions[:, 2] += 0.23 * side
    hydrogen = Atoms(f"H{len(layer)}", layer.positions + 1.1 * side[:, None] * [0, 0, 1])
    return layer + hydrogen, []


def fe_n4_c() -> tuple[Atoms, np.ndarray]:
    layer = graphene(size=(5, 5, 1))
    layer.cell[2] = [0, 0, 20]
    layer.positions[:, 2] = 10
    layer.pbc = True
    away = layer.get_distances(24, range(len(layer)), mic=True, vector=True)
    partner = int(np.argsort(np.linalg.norm(away, axis=1))[1])
    middle = layer.positions[24] + away[partner] / 2
    shift = np.linalg.norm(away - away[partner] / 2, axis=1)
    ring = np.argsort(shift)[2:6]
    layer.symbols[ring] = "N"
    del layer[[24, partner]]
    layer += Atoms("Fe", [middle])
    return layer, middle


@case
def o2_on_fe_n4_c():
    layer, iron = fe_n4_c()
    return put(layer, bent("OO", (1.0, 0, 0.75)), iron + 1.75 * UP)


@case
def o2_side_on_fe_n4_c():
    layer, iron = fe_n4_c()
    return put(layer, bent("OO", (1.35, 0, 0)), iron + np.array([-0.67, 0, 1.75]))


@case
def h_on_boron_nitride():
    layer = graphene("BN", a=2.5, size=(4, 4, 1))
    layer.cell[2] = [0, 0, 20]
    layer.positions[:, 2] = 10
    layer.pbc = True
    return put(layer, "H", layer.positions[8] + 1.3 * UP)


def carbon_nitride() -> Atoms:
    """A sheet of triazines joined by N, g-C3N4 with one ring in the cell."""
    a = 4.79
    cell = np.array([(a, 0, 0), (-a / 2, a * 3**0.5 / 2, 0), (0, 0, 20.0)])
    angles = np.radians(30 + 120 * np.arange(3))
    carbon = 1.33 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
    nitrogen = 1.33 * np.stack([np.cos(angles + np.pi / 3), np.sin(angles + np.pi / 3), 0 * angles], axis=1)
    bridge = carbon[0] * (1.33 + 1.45) / 1.33
    ring = Atoms("C3N3N", [*carbon, *nitrogen, bridge], cell=cell, pbc=True).repeat((2, 2, 1))
    ring.positions[:, 2] = 10
    return ring


@case
def co2_on_carbon_nitride():
    return put(carbon_nitride(), molecule("CO2"), (2, 2, 13.0))


@case
def h_on_carbon_nitride():
    layer = carbon_nitride()
    return put(layer, "H", layer.positions[4] + 1.05 * UP)


@case
def silicon_with_h_below_and_methyl_above():
    slab = surface(bulk("Si", cubic=True), (0, 0, 1), 2, vacuum=9.0).repeat((2, 2, 1))
    low = slab.positions[np.isclose(slab.positions[:, 2], slab.positions[:, 2].min())]
    for place in low:
        slab += Atoms("H2", place + np.array([(0.75, 0.75, -1.04), (-0.75, -0.75, -1.04)]))
    top = slab.positions[slab.positions[:, 2] > slab.positions[:, 2].max() - 0.1][0]
    return put(slab, molecule("CH3"), top + 1.9 * UP)


# === not slabs ===================================================================================


@case
def methanol_in_a_box():
    gas = molecule("CH3OH", vacuum=6.0)
    gas.pbc = True
    return gas, list(range(len(gas)))


@case
def n2_without_a_cell():
    return molecule("N2"), [0, 1]


@case
def co_on_pt13():
    cluster = Icosahedron("Pt", 2)
    cluster.center(vacuum=7.0)
    cluster.pbc = True
    return put(cluster, linear("CO", 1.15), cluster.positions[cluster.positions[:, 2].argmax()] + 1.85 * UP)


@case
def bulk_cu():
    return bulk("Cu", cubic=True).repeat((2, 2, 2)), []


@case
def bulk_tio2():
    return crystal(
        ["Ti", "O"], [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.6, 4.6, 2.96, 90, 90, 90]
    ), []
