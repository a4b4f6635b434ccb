"""The graph of structures that are periodic in any directions: what ASE and a plain loop find, by every builder."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from fairchem_batches import batch_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch
from waits import Waits

from fairchem_hdgnn import ESCN, HDGNN
from fairchem_hdgnn.data import pair_search
from fairchem_hdgnn.data.coinciding import TOUCHING
from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search, periodic_edges
from fairchem_hdgnn.data.periodicity import make_boxes
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.structures import check_structures
from fairchem_hdgnn.models.so3.frames import edge_frames

ALL = 10_000
"""No limit to neighbours."""

BUILDERS = {
    "pairs": (NeighborList.PAIRS, 2**22),
    "pairs, a few at a time": (NeighborList.PAIRS, 40),
    "vesin": (NeighborList.VESIN, 1),
}
"""Who finds edges, and from how many pairs at once."""
SIZES: dict[str, Any] = {
    "lmax": 2, "num_layers": 2, "sphere_channels": 4, "hidden_channels": 8, "edge_channels": 8,
    "distance_resolution": 0.5, "num_sphere_samples": 16, "max_neighbors": ALL, "frames": "fixed",
    "readout_init": "random",
}  # fmt: skip


def edges_of(batch: Batch, cutoff: float, builder: str) -> list[Counter]:
    """Source, target and image of each edge of each structure, counted from its first atom."""
    kind, at_once = BUILDERS[builder]
    if kind is NeighborList.VESIN:
        pytest.importorskip("vesin", reason="vesin needs Python 3.10")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(pair_search.PAIRS_AT_ONCE, "cpu", at_once)
        found = periodic_edges(batch, Search(cutoff, ALL, True, kind))
    first = batch.natoms.cumsum(0) - batch.natoms
    system = batch.batch[found.edge_index[1]]
    cell = batch.cell[system]
    shifts = (found.cell_offsets.to(cell).unsqueeze(-1) * cell).sum(1)
    expected = batch.pos[found.edge_index[0]] - batch.pos[found.edge_index[1]] + shifts
    torch.testing.assert_close(found.edge_vec, expected, atol=1e-8, rtol=0)
    assert torch.bincount(system, minlength=len(first)).tolist() == found.neighbors.tolist()
    columns = torch.cat([(found.edge_index - first[system]).T, found.cell_offsets], dim=1)
    return [Counter(map(tuple, columns[system == k].tolist())) for k in range(len(first))]


def by_ase(atoms: Atoms, cutoff: float) -> Counter:
    target, source, offsets = neighbor_list("ijS", atoms, cutoff)
    return Counter(map(tuple, np.column_stack([source, target, offsets]).tolist()))


def by_loop(atoms: Atoms, cutoff: float) -> Counter:
    """Every pair in every image that could be near: nothing shared with any of the searches."""
    vectors = atoms.cell.array[atoms.pbc]
    dual = np.linalg.pinv(vectors) if len(vectors) else np.zeros((3, 0))
    found: Counter = Counter()
    for target, source in itertools.product(range(len(atoms)), repeat=2):
        apart = atoms.positions[source] - atoms.positions[target]
        centre, reach = -apart @ dual, cutoff * np.linalg.norm(dual, axis=0)
        ranges = [range(int(np.floor(c - r)), int(np.ceil(c + r)) + 1) for c, r in zip(centre, reach)]
        for counts in itertools.product(*ranges):
            distance = np.linalg.norm(apart + np.array(counts) @ vectors if len(vectors) else apart)
            if distance <= cutoff and not (source == target and not any(counts)):
                offsets = np.zeros(3, dtype=int)
                offsets[atoms.pbc] = counts
                found[(source, target, *offsets.tolist())] += 1
    return found


@st.composite
def structures(draw: st.DrawFn) -> Atoms:
    """A few atoms anywhere, cells of any shape and hand, any periodic directions; other vectors made up or zero."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    pbc = np.array(draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
    shape = draw(st.sampled_from(["any", "thin", "skewed", "box"]))
    cell = rng.normal(size=(3, 3)) * rng.uniform(1.5, 6.0, size=(3, 1))
    if shape == "thin":
        cell[rng.integers(3)] *= 0.3
    elif shape == "skewed":
        cell = np.diag(rng.uniform(2.5, 6.0, 3))
        cell[1] += rng.uniform(1.2, 3.0) * cell[0]
        cell[2] += rng.uniform(-2.0, 2.0, 2) @ cell[:2]
    elif shape == "box":
        cell = np.diag(rng.uniform(2.0, 8.0, 3))
    vectors = cell[pbc]
    if len(vectors):
        heights = 1 / np.linalg.norm(np.linalg.pinv(vectors), axis=0)
        assume(heights.min() > 0.7)
    cell[~pbc] *= draw(st.sampled_from([0.0, 0.2, 1.0]))
    count = draw(st.integers(1, 5))
    positions = rng.uniform(-1.0, 1.0, size=(count, 3)) * draw(st.sampled_from([3.0, 40.0]))
    return Atoms(numbers=rng.choice([1, 8, 29], count), positions=positions, cell=cell, pbc=pbc)


def decidable(atoms: Atoms, cutoff: float) -> bool:
    """Whether no distance is within rounding of the cutoff, and no two atoms touch."""
    distances = np.array([])
    for counts in by_loop(atoms, cutoff + 0.01):
        source, target, *offsets = counts
        vector = atoms.positions[source] - atoms.positions[target] + np.array(offsets) @ atoms.cell.array
        distances = np.append(distances, np.linalg.norm(vector))
    return bool((abs(distances - cutoff) > 1e-4).all() and (distances > 0.1).all())


def test_edges_are_those_of_ase_and_of_a_plain_loop() -> None:
    """In every kind of periodicity, by every search."""
    drawn: Counter = Counter()

    @settings(max_examples=150, deadline=None)
    @given(st.lists(structures(), min_size=1, max_size=3), st.floats(2.0, 5.0))
    def compare(several: list[Atoms], cutoff: float) -> None:
        assume(all(decidable(atoms, cutoff) for atoms in several))
        batch = batch_of(*several)
        expected = [by_loop(atoms, cutoff) for atoms in several]
        assert [by_ase(atoms, cutoff) for atoms in several] == expected
        for builder in BUILDERS:
            assert edges_of(batch, cutoff, builder) == expected, builder
        drawn.update(tuple(atoms.pbc.tolist()) for atoms in several)

    compare()
    assert len(drawn) == 8 and sum(drawn.values()) >= 150, drawn


def copper(site: float = 1.5, above: float = 0.0, vacuum: float | None = 8.0) -> Atoms:
    """Cu(111) 2x2x2 with O, periodic in the plane, moved up by ``above`` Å."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=vacuum)
    if vacuum:
        add_adsorbate(atoms, "O", site, "fcc")
    atoms.pbc = (True, True, False)
    atoms.positions[:, 2] += above
    return atoms


def water(**keys: Any) -> Atoms:
    atoms = molecule("H2O")
    return Atoms(atoms.numbers, positions=atoms.positions, **keys)


def over_the_top() -> Atoms:
    """The cell ends below the adsorbate."""
    atoms = copper()
    atoms.cell[2, 2] = atoms.positions[:-1, 2].max() + 0.5
    return atoms


TABLE = [
    ("slab, its lowest layer just below z = 0", copper(above=-8.05), 228),
    ("slab moved up by 8 Å", copper(above=8.0), 228),
    ("adsorbate above the top of the cell", over_the_top(), 228),
    ("slab without vacuum, third cell vector made up", copper(vacuum=None), 192),
    ("water without a cell", water(), 6),
    ("water at the corner of a box that is not periodic", water(cell=[20.0] * 3), 6),
]


@pytest.mark.parametrize(("atoms", "count"), [pytest.param(*rest, id=name) for name, *rest in TABLE])
@pytest.mark.parametrize("make", [HDGNN, ESCN])
@pytest.mark.parametrize("neighbor_list", ["pairs", "vesin"])
def test_structures_that_are_not_periodic_in_all_directions(atoms, count, make, neighbor_list) -> None:
    """5 Å, no limit to neighbours."""
    if neighbor_list == "vesin":
        pytest.importorskip("vesin", reason="vesin needs Python 3.10")
    model = make(**SIZES, cutoff=5.0, regress_forces=False, neighbor_list=neighbor_list)
    assert len(neighbor_list_of(atoms, 5.0)) == count
    graph = model.plain_graph(batch_of(atoms))
    assert graph.edge_index.shape[1] == count
    assert graph.edge_vec.norm(dim=-1).min() == pytest.approx(neighbor_list_of(atoms, 5.0).min(), abs=1e-5)


def neighbor_list_of(atoms: Atoms, cutoff: float) -> np.ndarray:
    return neighbor_list("d", atoms, cutoff)


ENERGIES = [make(**SIZES, cutoff=4.0, regress_forces=False).double().eval() for make in (HDGNN, ESCN)]


@settings(max_examples=25, deadline=None)
@given(structures(), st.integers(0, 2**32 - 1))
def test_energies_do_not_see_where_atoms_stand(atoms: Atoms, seed: int) -> None:
    """Whole translations of single atoms along periodic directions, and any shift of all atoms."""
    assume(decidable(atoms, 4.0) and all(decidable(atoms, 4.0 + x) for x in (1e-3, -1e-3)))
    rng = np.random.default_rng(seed)
    moved = atoms.copy()
    moved.positions += (rng.integers(-3, 4, size=(len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    moved.positions += rng.uniform(-30, 30, size=3)
    for model in ENERGIES:
        with torch.no_grad():
            one, other, both = model(batch_of(atoms)), model(batch_of(moved)), model(batch_of(moved, atoms))
        torch.testing.assert_close(one["energy"], other["energy"], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(both["energy"], torch.cat([other["energy"], one["energy"]]), rtol=1e-9, atol=1e-9)


def test_without_periodic_boundaries_pbc_does_not_matter() -> None:
    """``use_pbc: false``: nothing repeats, whatever the record says."""
    model = HDGNN(**SIZES, cutoff=5.0, use_pbc=False).eval()
    bulk, alone = copper(), copper()
    alone.pbc = False
    with torch.no_grad():
        torch.testing.assert_close(model(batch_of(bulk))["energy"], model(batch_of(alone))["energy"])
    assert model.plain_graph(batch_of(bulk)).edge_index.shape[1] == len(neighbor_list("i", alone, 5.0))


def test_record_without_pbc_repeats_everywhere() -> None:
    """As OC20's."""
    atoms = copper()
    atoms.pbc = True
    batch = batch_of(atoms)
    del batch.pbc
    found = periodic_edges(batch, Search(5.0, ALL, True, NeighborList.PAIRS))
    assert found.edge_index.shape[1] == len(neighbor_list("i", atoms, 5.0))


SEEDED = HDGNN(**{**SIZES, "frames": "seeded"}, cutoff=4.5, regress_forces=False).eval()


@pytest.mark.parametrize("max_neighbors", [40, ALL])
@pytest.mark.parametrize("constant", [3.61, 3.615, 3.891])
def test_ideal_crystals_have_one_energy_wherever_they_stand(constant: float, max_neighbors: int, monkeypatch) -> None:
    """With seeded frames and the limit cutting a shell; no atom leaves its cell."""
    monkeypatch.setattr(SEEDED, "max_neighbors", max_neighbors)
    for atoms in (bulk("Cu", "fcc", constant, cubic=True), fcc111("Cu", (2, 2, 3), a=constant, vacuum=6.0)):
        energies = []
        for shift in (0.05, 0.1, 0.2, 0.35, 0.5):
            moved = atoms.copy()
            moved.positions += shift
            batch = batch_of(moved)
            batch.pos = batch.pos.float()
            with torch.no_grad():
                energies.append(SEEDED(batch)["energy"])
        torch.testing.assert_close(torch.stack(energies), energies[0].expand(5, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [HDGNN, ESCN])
def test_dependent_periodic_vectors_are_refused(make) -> None:
    batch = batch_of(copper(), copper())
    batch.cell[1, 1] = 2 * batch.cell[1, 0]
    with pytest.raises(DataError, match="system 1 is periodic along cell vectors that are zero or parallel"):
        make(**SIZES, cutoff=5.0, regress_forces=False)(batch)


@pytest.mark.parametrize("make", [HDGNN, ESCN])
def test_positions_that_require_a_gradient_are_refused(make) -> None:
    """The energy's derivative lacks a part: no gradient flows through edge frames."""
    model, batch = make(**SIZES, cutoff=5.0, regress_forces=False), batch_of(copper())
    batch.pos.requires_grad_()
    with pytest.raises(ConfigError, match="positions require a gradient"):
        model(batch)
    with torch.no_grad():
        assert torch.isfinite(model(batch)["energy"]).all()


@pytest.mark.parametrize("make", [HDGNN, ESCN])
def test_edge_vectors_that_require_a_gradient_are_warned_of(make) -> None:
    model = make(**SIZES, cutoff=5.0, regress_forces=False)
    graph = model.plain_graph(batch_of(copper()))
    wanted = graph._replace(edge_vec=graph.edge_vec.requires_grad_())
    with pytest.warns(UserWarning, match="none flows through edge frames"):
        model.network(*wanted)
    with pytest.warns(UserWarning, match="none flows through edge frames"):
        model.network(*wanted, edge_frames=edge_frames(graph.edge_vec))


@pytest.mark.parametrize("make", [HDGNN, ESCN])
def test_float64_positions_in_a_float32_model(make) -> None:
    model = make(**SIZES, cutoff=5.0, regress_forces=False).eval()
    batch = batch_of(copper())
    assert batch.pos.dtype == torch.float64
    rounded = batch.clone()
    rounded.pos, rounded.cell = batch.pos.float(), batch.cell.float()
    with torch.no_grad():
        got, expected = model(batch)["energy"], model(rounded)["energy"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strictly", [True, False])
@pytest.mark.parametrize("use_pbc", [True, False])
def test_graph_building_waits_twice_for_a_gpu(use_pbc: bool, strictly: bool) -> None:
    """For the sizes and for the number of edges, however many structures there are."""
    batch = batch_of(copper(), water(), copper(above=3.0))
    keys = {**SIZES, "max_neighbors": 12, "enforce_max_neighbors_strictly": strictly}
    model = HDGNN(**keys, cutoff=5.0, use_pbc=use_pbc)
    with Waits() as building:
        graph = model.plain_graph(batch)
    assert graph.edge_index.shape[1] > 0
    assert building.count == 2


@pytest.mark.parametrize("distance", [0.004, 0.02])
def test_atoms_on_one_place_are_found_wherever_they_are(distance: float) -> None:
    """Against all pairs, at any angle, over periodic boundaries, among many atoms; those a little apart are left."""
    generator = np.random.default_rng(0)
    tried = 0
    while tried < 30:
        atoms = Atoms("Cu60", positions=generator.uniform(0, 20, (60, 3)), cell=[[12, 0, 0], [7, 9, 0], [1, 2, 25]])
        atoms.pbc = generator.integers(0, 2, 3).astype(bool)
        if len(neighbor_list("i", atoms, 0.1)):
            continue
        tried += 1
        direction = generator.normal(size=3)
        atoms.positions[7] = atoms.positions[23] + distance * direction / np.linalg.norm(direction)
        atoms.positions[7] += (generator.integers(-2, 3, 3) * atoms.pbc) @ atoms.cell.array
        batch = batch_of(copper(), atoms)
        boxes = make_boxes(batch, 5.0)
        if distance < TOUCHING:
            with pytest.raises(DataError, match="system 1: atoms 7 and 23 coincide"):
                check_structures(batch, boxes, 90)
        else:
            check_structures(batch, boxes, 90)
