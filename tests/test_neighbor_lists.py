"""Both searches find the edges that fairchem finds, and ASE confirms them."""

from __future__ import annotations

import sys
from collections import Counter
from importlib import metadata

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.neighborlist import neighbor_list
from fairchem.core.common.utils import radius_graph_pbc
from fairchem.core.datasets import data_list_collater
from fairchem.core.preprocessing import AtomsToGraphs
from packaging.requirements import Requirement
from torch_geometric.data import Batch, Data

import fairchem_hdgnn
from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search, periodic_edges
from fairchem_hdgnn.errors import ConfigError

pytest.importorskip("vesin", reason="vesin needs Python 3.10")

CUTOFF = 6.0


def slab() -> Atoms:
    """Cu(111) with CO, in its cell."""
    structure = fcc111("Cu", (3, 3, 3), vacuum=6.0)
    add_adsorbate(structure, molecule("CO"), 2.0, "ontop")
    return structure


def crystal() -> Atoms:
    """One atom, whose images are all its neighbours."""
    return bulk("Pt", "fcc", 3.9)


def triclinic() -> Atoms:
    """Few atoms in a cell that is far from a box."""
    cell = [[4.0, 0.0, 0.0], [2.9, 3.1, 0.0], [-1.7, 2.2, 5.3]]
    return Atoms("CuPtO", scaled_positions=[[0.1, 0.2, 0.3], [0.6, 0.7, 0.2], [0.4, 0.9, 0.8]], cell=cell, pbc=True)


STRUCTURES = (slab, crystal, triclinic)


def batch_of(*structures: Atoms) -> Batch:
    """Rattled, so that no two distances are the same, and wrapped into their cells."""
    records = []
    for seed, structure in enumerate(structures):
        structure.pbc = True
        structure.rattle(0.05, seed=seed)
        structure.wrap()
        data = AtomsToGraphs(r_edges=False, r_pbc=False).convert(structure)
        data.tags, data.sid = torch.ones(len(structure), dtype=torch.long), seed
        records.append(data)
    return data_list_collater(records, otf_graph=True)


def edge_set(batch: Batch, max_neighbors: int, strictly: bool, kind: NeighborList) -> Counter:
    """Source, target and image of each edge."""
    edges = periodic_edges(batch, Search(CUTOFF, max_neighbors, strictly, kind))
    assert int(edges.neighbors.sum()) == edges.edge_index.shape[1]
    assert (edges.edge_index[1].diff() >= 0).all()
    columns = torch.cat([edges.edge_index.T, edges.cell_offsets], dim=1)
    return Counter(map(tuple, columns.tolist()))


@pytest.mark.parametrize("kind", NeighborList)
@pytest.mark.parametrize("strictly", [True, False])
@pytest.mark.parametrize("max_neighbors", [1, 12, 1000])
def test_same_edges_as_fairchem(max_neighbors: int, strictly: bool, kind: NeighborList) -> None:
    """A batch of a slab, a crystal with one atom and a triclinic cell."""
    batch = batch_of(*(make() for make in STRUCTURES))
    edge_index, offsets, _ = radius_graph_pbc(batch, CUTOFF, max_neighbors, strictly)
    expected = Counter(map(tuple, torch.cat([edge_index.T, offsets], dim=1).long().tolist()))
    assert edge_set(batch, max_neighbors, strictly, kind) == expected
    assert max(expected.values()) == 1


def test_neighbours_at_one_distance_are_chosen_alike_in_every_batch() -> None:
    """A crystal's shells are cut by the limit; which neighbours stay does not depend on rounding or on the batch."""
    structure = bulk("Cu", "fcc", 3.6, cubic=True)
    data = [AtomsToGraphs(r_edges=False, r_pbc=False).convert(atoms) for atoms in (slab(), structure, crystal())]
    alone = data_list_collater(data[1:2], otf_graph=True)
    with_others = data_list_collater(data, otf_graph=True)
    first = len(data[0].pos)
    one, several = (
        periodic_edges(batch, Search(CUTOFF, 15, True, NeighborList.PAIRS)) for batch in (alone, with_others)
    )
    ours = (several.edge_index[1] >= first) & (several.edge_index[1] < first + len(structure))
    expected = torch.cat([one.edge_index + first, one.cell_offsets.T]).T
    found = torch.cat([several.edge_index[:, ours], several.cell_offsets[ours].T]).T
    assert Counter(map(tuple, found.tolist())) == Counter(map(tuple, expected.tolist()))
    assert one.neighbors.tolist() == [15 * len(structure)]


@pytest.mark.parametrize("constant", [3.59, 3.6, 3.61, 3.615, 3.62])
@pytest.mark.parametrize("max_neighbors", [15, 40])
def test_neighbours_at_one_distance_are_chosen_alike_wherever_the_structure_stands(constant, max_neighbors) -> None:
    """Positions in float32; no atom leaves its cell."""
    found = []
    for shift in (0.05, 0.1, 0.2, 0.35, 0.5):
        structure = bulk("Cu", "fcc", constant, cubic=True)
        structure.positions += shift
        batch = data_list_collater([AtomsToGraphs(r_edges=False, r_pbc=False).convert(structure)], otf_graph=True)
        edges = periodic_edges(batch, Search(4.5, max_neighbors, True, NeighborList.PAIRS))
        assert edges.neighbors.tolist() == [max_neighbors * len(structure)]
        found.append(torch.cat([edges.edge_index, edges.cell_offsets.T]))
    assert all(torch.equal(other, found[0]) for other in found)


@pytest.mark.parametrize("kind", NeighborList)
def test_neighbours_at_the_cutoff_are_kept(kind: NeighborList) -> None:
    """Six at 4 Å."""
    batch = data_list_collater(
        [AtomsToGraphs(r_edges=False, r_pbc=False).convert(bulk("Po", "sc", 4.0))], otf_graph=True
    )
    assert periodic_edges(batch, Search(4.0, 100, True, kind)).neighbors.tolist() == [6]
    assert periodic_edges(batch, Search(4.0 - 1e-9, 100, True, kind)).neighbors.tolist() == [0]


@pytest.mark.parametrize("make", STRUCTURES)
@pytest.mark.parametrize("kind", NeighborList)
def test_same_edges_as_ase(make, kind: NeighborList) -> None:
    """All pairs within the cutoff, found by a third program."""
    structure = make()
    batch = batch_of(structure)
    target, source, offsets = neighbor_list("ijS", structure, CUTOFF)
    expected = Counter(map(tuple, np.column_stack([source, target, offsets]).tolist()))
    assert edge_set(batch, 1000, True, kind) == expected


def test_a_structure_without_neighbours() -> None:
    """An atom alone has no edges, and the next structure keeps its own."""
    alone = Atoms("Cu", cell=[20, 20, 20])
    edges = periodic_edges(batch_of(alone, crystal()), Search(CUTOFF, 12, True, NeighborList.VESIN))
    assert edges.neighbors.tolist() == [0, 12]
    assert (edges.edge_index == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_predicts_the_same(dtype: torch.dtype) -> None:
    """Energies and their gradients with either list; some atoms lie outside their cell."""
    batch = batch_of(slab(), crystal())
    batch.pos[3] += batch.cell[0, 0]
    batch.pos, batch.cell = batch.pos.to(dtype), batch.cell.to(dtype)
    results = []
    for kind in ("pairs", "vesin"):
        torch.manual_seed(0)
        model = fairchem_hdgnn.ESCN(
            lmax=2, mmax=1, num_layers=1, sphere_channels=4, hidden_channels=4, edge_channels=4, cutoff=CUTOFF,
            max_neighbors=12, num_sphere_samples=16, distance_resolution=0.5, regress_forces=False, neighbor_list=kind,
            readout_init="random",
        ).to(dtype)  # fmt: skip
        energy = model(batch)["energy"]
        gradients = torch.autograd.grad(energy.sum(), tuple(model.parameters()))
        results.append((energy.detach(), *gradients))
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-10}[dtype]
    for left, right in zip(*results):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def test_the_name_of_release_0_1() -> None:
    assert NeighborList("fairchem") is NeighborList.PAIRS


def test_without_vesin_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is optional; the remedy asks for the version that the extra does."""
    monkeypatch.setitem(sys.modules, "vesin", None)
    wanted = [Requirement(line) for line in metadata.requires("fairchem-hdgnn") or []]
    [vesin] = [f"{requirement.name}{requirement.specifier}" for requirement in wanted if requirement.name == "vesin"]
    with pytest.raises(ConfigError, match=f"pip install '{vesin}'"):
        periodic_edges(batch_of(crystal()), Search(CUTOFF, 12, True, NeighborList.VESIN))


def test_directions_without_periodicity_are_left_alone() -> None:
    """A record may say that it is periodic in the plane only."""
    batch = Batch.from_data_list(
        [Data(pos=torch.zeros(1, 3), cell=torch.eye(3)[None] * 3.0, natoms=1, pbc=torch.tensor([[True, True, False]]))]
    )
    edges = periodic_edges(batch, Search(3.5, 100, True, NeighborList.VESIN))
    assert edges.neighbors.tolist() == [4]
    assert (edges.cell_offsets[:, 2] == 0).all()
