"""Tags and fixed atoms: what is kept, what is derived, for metals, oxides, layers, sheets, molecules and clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bcc100, bcc110, bulk, fcc100, fcc110, fcc111, fcc211, hcp0001, molecule
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedPlane, FixScaled
from ase.neighborlist import neighbor_list
from oxygen_slabs import slab
from surfaces import CASES

from fairchem_hdgnn.data.surfaces.bonding import near_pairs
from fairchem_hdgnn.data.surfaces.tagging import ADSORBATE, SUBSURFACE, SURFACE, fix_atoms, fixed_atoms, tag_atoms
from fairchem_hdgnn.errors import DataError

DATA = Path(__file__).parents[2] / "shared/data"

GAS = {"methanol_in_a_box", "n2_without_a_cell"}
BULK = {"bulk_cu", "bulk_tio2"}
SLABS = sorted(set(CASES) - GAS - BULK - {"co_on_pt13"})

DOUBTED = {
    "subsurface_h_in_pd": "adsorbate atoms inside the slab",
    "k_on_cu111": "metal atoms alone on top, taken as slab",
    "quarter_layer_of_k_on_cu111": "metal atoms alone on top, taken as slab",
    "lithium_and_co_on_cu111": "metal atoms alone on top, taken as slab",
    "graphane": "groups that saturate the slab, taken as slab",
    "silicon_with_h_below_and_methyl_above": "groups that saturate the slab, taken as slab",
    **dict.fromkeys(BULK, "no vacuum"),
}


def adsorbate_of(atoms: Atoms) -> list[int]:
    return np.flatnonzero(tag_atoms(atoms).tags == ADSORBATE).tolist()


@pytest.mark.parametrize("name", ["benzene_on_pt", "co_at_the_foot_of_a_step", "methanol_in_a_box", *sorted(BULK)])
@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_pairs_are_those_of_ase(name: str, pbc):
    atoms, _ = CASES[name]()
    atoms.pbc = pbc
    atoms.rattle(0.05, seed=0)
    pairs = near_pairs(atoms, 6.0)
    first, second, shift, vector = neighbor_list("ijSD", atoms, 6.0)
    theirs = np.lexsort([*shift.T, second, first])
    ours = np.lexsort([*pairs.shift.T, pairs.second, pairs.first])
    assert np.array_equal(pairs.first[ours], first[theirs])
    assert np.array_equal(pairs.second[ours], second[theirs])
    assert np.array_equal(pairs.shift[ours], shift[theirs])
    np.testing.assert_allclose(pairs.vector[ours], vector[theirs], atol=1e-9)


# === the adsorbate ===============================================================================


@pytest.mark.parametrize("name", CASES)
def test_adsorbate(name: str):
    atoms, adsorbate = CASES[name]()
    tagged = tag_atoms(atoms)
    assert np.flatnonzero(tagged.tags == ADSORBATE).tolist() == adsorbate
    assert tagged.doubts == ((DOUBTED[name],) if name in DOUBTED else ())
    special = {"co_on_pt13": "cluster", **dict.fromkeys(GAS, "gas"), **dict.fromkeys(BULK, "bulk")}
    assert tagged.kind == special.get(name, "adsorbed" if adsorbate else "slab")


@pytest.mark.parametrize("name", SLABS)
def test_tags_do_not_depend_on_how_the_slab_lies_in_its_cell(name: str):
    atoms, adsorbate = CASES[name]()
    expected = tag_atoms(atoms)
    for how, moved in lying(atoms):
        tagged = tag_atoms(moved)
        assert tagged.tags.tolist() == expected.tags.tolist(), how
        assert tagged.doubts == expected.doubts, how
    down = upside_down(atoms)
    if adsorbate:
        assert tag_atoms(down).tags.tolist() == expected.tags.tolist()
    else:
        assert adsorbate_of(down) == []


def lying(atoms: Atoms):
    """The same slab normal to other cell vectors, in left-handed cells, rotated, cut by the cell's boundary."""
    cell = atoms.cell.array
    for axis, by in ((1, 0.3), (2, 0.55)):
        order = np.roll(np.arange(3), axis)
        moved = placed(atoms, (atoms.positions + by * cell.sum(axis=0))[:, order], cell[order][:, order])
        moved.wrap()
        yield f"axes {order}, shifted by {by}", moved
    swapped = placed(atoms, atoms.positions + 0.5 * cell.sum(axis=0), cell[[1, 0, 2]])
    swapped.wrap()
    swapped.rotate(37, (1, 2, 3), rotate_cell=True)
    yield "left-handed, rotated", swapped
    yield "open along the normal", placed(atoms, atoms.positions, cell, pbc=(True, True, False))


def placed(atoms: Atoms, positions: np.ndarray, cell: np.ndarray, pbc=True) -> Atoms:
    return Atoms(atoms.numbers, positions, cell=cell, pbc=pbc)


def upside_down(atoms: Atoms) -> Atoms:
    turned = placed(atoms, atoms.positions * [1, 1, -1], atoms.cell.array * [[1, 1, -1], [1, 1, -1], [-1, -1, 1]])
    turned.set_tags(atoms.get_tags())
    turned.set_constraint(atoms.constraints)
    return turned


@pytest.mark.parametrize("name", SLABS)
def test_adsorbate_does_not_depend_on_small_displacements_or_the_order_of_atoms(name: str):
    atoms, adsorbate = CASES[name]()
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(atoms))
        moved = atoms[order]
        moved.rattle(0.05, seed=seed)
        assert sorted(order[adsorbate_of(moved)].tolist()) == adsorbate


@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_boundaries(pbc):
    atoms, adsorbate = CASES["o_on_pt"]()
    atoms.pbc = pbc
    tagged = tag_atoms(atoms)
    assert adsorbate_of(atoms) == adsorbate and tagged.kind == "adsorbed"
    assert bool(tagged.doubts) == (pbc is False)


def test_slab_without_a_third_cell_vector():
    atoms = fcc111("Cu", (2, 2, 3))
    atoms.set_tags(0)
    assert tag_atoms(atoms).tags.tolist() == [0] * 8 + [1] * 4


def test_adsorbates_on_both_sides():
    atoms = fcc111("Cu", (2, 2, 5), vacuum=8.0)
    low, high = atoms.positions[0], atoms.positions[-1]
    atoms += Atoms("O2", [low - (0, 0, 1.9), high + np.array((0, 0, 1.9))])
    atoms.set_tags(0)
    tagged = tag_atoms(atoms)
    assert tagged.tags.tolist() == [1] * 4 + [0] * 12 + [1] * 4 + [2, 2]
    assert tagged.doubts == ("adsorbate on both sides",)


def test_a_ribbon_is_doubted():
    atoms = CASES["oh_on_graphene"]()[0]
    atoms.cell[1] *= 2
    assert "vacuum along more than one cell vector" in tag_atoms(atoms).doubts


def test_a_tall_molecule_may_fill_the_vacuum():
    atoms, adsorbate = CASES["o_on_pt"]()
    height = np.ptp(atoms.positions[:, 2])
    atoms += Atoms("N2", [(1, 1, atoms.positions[:, 2].max() + z) for z in (3.4, 4.5)])
    atoms.cell[2, 2] = height + 8.9
    tagged = tag_atoms(atoms)
    assert np.flatnonzero(tagged.tags == ADSORBATE).tolist() == [*adsorbate, len(atoms) - 2, len(atoms) - 1]
    assert tagged.doubts == ("vacuum narrower than 5 Å",)


def test_what_the_user_says_is_taken():
    atoms, adsorbate = CASES["k_on_cu111"]()
    assert adsorbate == []
    expected = [len(atoms) - 1]
    assert np.flatnonzero(tag_atoms(atoms, adsorbate_elements=["K"]).tags == ADSORBATE).tolist() == expected
    mask = atoms.numbers == 19
    assert tag_atoms(atoms, adsorbate=mask).tags.tolist() == tag_atoms(atoms, adsorbate_elements=("K",)).tags.tolist()
    atoms.set_tags(1)
    assert tag_atoms(atoms, adsorbate=mask).tags[-1] == ADSORBATE
    every = tag_atoms(CASES["oh_on_graphene"]()[0], adsorbate_elements=("C", "O", "H"))
    assert every.doubts == ("all atoms are adsorbate",) and set(every.tags.tolist()) == {ADSORBATE}


# === surface and subsurface ======================================================================


@pytest.mark.parametrize(
    ("slab", "exposed"),
    [
        (fcc111("Cu", (2, 2, 4)), 1),
        (fcc100("Ni", (2, 2, 4)), 1),
        (bcc110("Fe", (2, 2, 4)), 1),
        (hcp0001("Ru", (2, 2, 4)), 1),
        (fcc111("Na", (2, 2, 4), a=5.3), 1),
        (fcc110("Cu", (2, 2, 4)), 2),
        (bcc100("Fe", (2, 2, 4)), 2),
        (fcc211("Pt", (3, 3, 3)), 3),
    ],
    ids=["fcc111", "fcc100", "bcc110", "hcp0001", "large atoms", "fcc110", "bcc100", "fcc211"],
)
def test_exposed_layers(slab: Atoms, exposed: int):
    slab.center(vacuum=8.0, axis=2)
    slab.set_tags(0)
    slab.pbc = True
    heights = np.unique(slab.positions[:, 2].round(2))
    expected = slab.positions[:, 2] > heights[-exposed] - 0.05
    assert (tag_atoms(slab).tags == SURFACE).tolist() == expected.tolist()


def test_fixed_atoms_under_others_are_subsurface():
    atoms, _ = CASES["o_on_pt"]()
    top = tag_atoms(atoms).tags == SURFACE
    low = atoms.positions[:, 2] < np.median(atoms.positions[:, 2])
    atoms.set_constraint(FixAtoms(mask=low))
    tagged = tag_atoms(atoms)
    assert ((tagged.tags == SUBSURFACE) == low).all() and "fixed atoms" in tagged.origin
    atoms.set_constraint(FixAtoms(mask=atoms.numbers == 78))
    assert ((tag_atoms(atoms).tags == SURFACE) == top).all()


def test_a_clean_slab_is_turned_away_from_its_fixed_atoms():
    atoms, _ = CASES["clean_pt"]()
    high = atoms.positions[:, 2] > np.median(atoms.positions[:, 2])
    atoms.set_constraint(FixAtoms(mask=high))
    assert (tag_atoms(atoms).tags[high] == SUBSURFACE).all()


# === tags that are there =========================================================================


def with_tags(atoms: Atoms, tags) -> Atoms:
    atoms = atoms.copy()
    atoms.set_tags(tags)
    return atoms


def test_tags_of_oc20_are_kept_and_layers_of_ase_translated():
    atoms = slab()
    expected = [2 if tag == 0 else 1 if tag == 1 else 0 for tag in atoms.get_tags()]
    tagged = tag_atoms(atoms)
    assert tagged.tags.tolist() == expected and "layer" in tagged.origin and tagged.kind == "adsorbed"
    kept = tag_atoms(with_tags(atoms, expected))
    assert kept.tags.tolist() == expected and kept.origin == "kept" and kept.doubts == ()


def test_both_readings_of_three_tags_are_told_apart_on_both_sides():
    atoms = slab(layers=2)
    layers = atoms.get_tags()
    assert set(layers) == {0, 1, 2}
    expected = np.select([layers == 0, layers == 1], [2, 1], 0)
    for structure in (atoms, with_tags(atoms, expected)):
        for turned in (structure, upside_down(structure)):
            assert tag_atoms(turned).tags.tolist() == expected.tolist()


def test_clean_slabs_are_read_by_fixed_atoms_or_the_cell():
    atoms = slab()[:-1]
    layers = atoms.get_tags()
    expected = np.where(layers == 1, 1, 0)
    oc20, two = with_tags(atoms, expected), atoms[layers < 3]
    assert tag_atoms(oc20).tags.tolist() == expected.tolist() and tag_atoms(oc20).origin == "kept"
    assert tag_atoms(two).tags.tolist() == expected[layers < 3].tolist()
    turned = upside_down(oc20)
    turned.set_constraint(FixAtoms(mask=expected == 0))
    assert tag_atoms(turned).origin == "kept"


@pytest.mark.parametrize("how", ["layers", "OC20"])
def test_tags_that_are_there_do_not_depend_on_how_the_slab_lies_in_its_cell(how: str):
    atoms = slab()
    expected = tag_atoms(atoms).tags
    tags = atoms.get_tags() if how == "layers" else expected
    for name, moved in lying(atoms):
        moved.set_tags(tags)
        assert tag_atoms(moved).tags.tolist() == expected.tolist(), name


def test_tags_that_are_neither_are_refused():
    with pytest.raises(DataError, match=r"its tags \[5\] are neither OC20's .* set them with atoms\.set_tags"):
        tag_atoms(with_tags(slab(), 5))


# === fixed atoms =================================================================================


def test_constraints_that_fix_atoms():
    atoms = slab()
    atoms.set_constraint([FixAtoms([0]), FixCartesian([1, 2]), FixScaled([3], (True, True, True))])
    assert np.flatnonzero(fixed_atoms(atoms)).tolist() == [0, 1, 2, 3]
    kept = fix_atoms(atoms, tag_atoms(atoms))
    assert kept.origin == "kept" and kept.other == ()
    atoms.set_constraint([FixCartesian([1], (True, True, False)), FixScaled([3], (False, True, True))])
    assert not fixed_atoms(atoms).any()


def test_other_constraints_are_named_and_nothing_is_guessed():
    atoms = slab()
    others = [FixCartesian(1, (True, True, False)), FixBondLengths([(0, 1)]), FixedPlane(2, (0, 0, 1))]
    atoms.set_constraint([*others, FixCartesian([3], (False, True, True))])
    fixed = fix_atoms(atoms, tag_atoms(atoms))
    assert not fixed.fixed.any() and fixed.origin == "none"
    assert fixed.other == ("FixBondLengths", "FixCartesian on some axes", "FixedPlane")


def test_fixed_atoms_are_derived_from_tags_or_from_what_does_not_move():
    atoms = slab()
    tagged = tag_atoms(atoms)
    derived = fix_atoms(atoms, tagged)
    assert (
        derived.fixed.tolist() == (tagged.tags == SUBSURFACE).tolist() and derived.origin == "derived: subsurface atoms"
    )
    relaxed = atoms.positions.copy()
    relaxed[4:] += 0.05
    relaxed[0] += atoms.cell[0]
    still = fix_atoms(atoms, tagged, relaxed)
    assert still.fixed.tolist() == [True] * 4 + [False] * 9 and still.origin == "derived: atoms that do not move"
    assert fix_atoms(atoms, tagged, atoms.positions).origin == "derived: subsurface atoms"
    all_move = atoms.positions + np.random.default_rng(0).uniform(0.1, 0.2, (len(atoms), 3))
    assert fix_atoms(atoms, tagged, all_move).origin == "none"


def test_metals_without_a_cell_are_doubted():
    slab = CASES["co_on_pt13"]()[0]
    slab.cell[:], slab.pbc = 0, False
    assert tag_atoms(slab).doubts == ("metal atoms without a cell, taken as a molecule",)
    assert not tag_atoms(molecule("CH3OH")).doubts


@pytest.mark.parametrize("name", sorted({"co_on_pt13"} | GAS | BULK))
def test_nothing_is_fixed_but_in_slabs(name: str):
    atoms, _ = CASES[name]()
    fixed = fix_atoms(atoms, tag_atoms(atoms))
    assert not fixed.fixed.any() and fixed.origin == "none"


# === published structures ========================================================================


def published(name: str, step: int):
    path = DATA / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"needs ../shared/data/{name}.npz")
    arrays = dict(np.load(path))
    for system in range(0, len(arrays["ptr"]) - 1, step):
        one = slice(arrays["ptr"][system], arrays["ptr"][system + 1])
        positions, cell = arrays["pos"][one].astype(float), arrays["cell"][system].astype(float)
        tags = arrays["tags"][one] if "tags" in arrays else None
        yield Atoms(arrays["numbers"][one], positions, cell=cell, pbc=True), tags, arrays["fixed"][one]


@pytest.mark.parametrize(("name", "step"), [("oc20_is2re", 1), ("hea_adsorption", 300), ("tinnet_oh", 30)])
def test_published_tags(name: str, step: int):
    right, all_slab_atoms = np.zeros(2), 0
    for atoms, tags, fixed in published(name, step):
        all_slab_atoms += (tags != ADSORBATE).sum()
        for constrained in (0, 1):
            atoms.set_constraint(FixAtoms(mask=fixed) if constrained else None)
            derived = tag_atoms(atoms).tags
            assert ((derived == ADSORBATE) == (tags == ADSORBATE)).all(), atoms
            right[constrained] += ((derived == tags) & (tags != ADSORBATE)).sum()
    assert right[1] / all_slab_atoms > 0.98
    # In the others, tag 0 stands for fixed atoms of any layer.
    assert right[0] / all_slab_atoms > 0.93 or name != "oc20_is2re"


def test_published_molecules_on_metals():
    for atoms, _, _ in published("gamenet_fg", 60):
        molecules = np.isin(atoms.numbers, (1, 6, 7, 8, 16))
        tagged = tag_atoms(atoms)
        assert ((tagged.tags == ADSORBATE) == molecules).all()
        assert tagged.kind == ("gas" if molecules.all() else "adsorbed" if molecules.any() else "slab")


def test_bulk_with_a_given_adsorbate_does_not_fail():
    atoms = bulk("Cu", cubic=True)
    assert tag_atoms(atoms, adsorbate=np.array([True, False, False, False])).tags.tolist() == [2, 0, 0, 0]
    assert tag_atoms(molecule("H2O"), adsorbate=np.zeros(3, dtype=bool)).kind == "gas"
