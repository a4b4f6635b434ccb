"""Training, prediction and the calculator see the same graph, whatever repeats: a mixed data set through all three."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_runs
import torch
import yaml
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.io import write
from ase.neighborlist import neighbor_list
from fairchem_batches import batch_of
from torch_geometric.data import Batch

from fairchem_hdgnn import HDGNN, calculator
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.neighbor_lists import Search
from fairchem_hdgnn.data.records import store_edges
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset

MODEL = {**small_runs.TINY_HDGNN, "frames": "fixed", "max_neighbors": 500}


def structures(seed: int) -> list[Atoms]:
    """A slab periodic in its plane, a molecule in a box that is not, a wire, a crystal; atoms outside their cells."""
    rng = np.random.default_rng(seed)
    slab = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(slab, "O", 1.2, "fcc")
    slab.info.clear()
    slab.pbc = (True, True, False)
    slab.positions[:, 2] += rng.uniform(-12, 12)
    water = molecule("H2O", cell=[15.0] * 3, tags=[2] * 3)
    cell = [[5.0, 0.0, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    wire = Atoms("Pt2", positions=[[0, 0, 0], [2.3, 0.4, 0]], cell=cell, pbc=(True, False, False), tags=[1, 1])
    crystal = bulk("Cu", cubic=True)
    crystal.positions[0] += 2 * crystal.cell[0] - crystal.cell[1]
    made = [slab, water, wire, crystal]
    for number, atoms in enumerate(made):
        atoms.rattle(0.05, seed=10 * seed + number)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=np.zeros((len(atoms), 3)))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on an ASE database; each batch mixes all four."""
    folder = tmp_path_factory.mktemp("hosts")
    for split, seeds in (("train", range(6)), ("val", range(6, 8))):
        with connect(folder / f"{split}.db") as database:
            for seed in seeds:
                for atoms in structures(seed):
                    database.write(atoms)
    config = yaml.safe_load(small_runs.write_config(folder / "template", MODEL).read_text())
    source = {"format": "ase_db", "a2g_args": {"r_energy": True, "r_forces": False}}
    for split in ("train", "val"):
        config["dataset"][split].pop("key_mapping")
        config["dataset"][split].update(source, src=str(folder / f"{split}.db"))
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    small_runs.launch(small_runs.PLUGIN, folder / "config.yml", "run")
    return folder


def test_all_three_agree_with_edges_from_ase(folder: Path) -> None:
    checkpoint = folder / "checkpoints/run/best_checkpoint.pt"
    options = InferenceOptions(cpu=True, progress=False, batch_size=4)
    predicted = predict_splits(checkpoint, {"val": folder / "val.db"}, options)["val"].energy
    calc = calculator(checkpoint, cpu=True)
    expected = []
    for atoms in structures(6) + structures(7):
        expected.append(energy_with_edges_from_ase(calc, atoms))
        atoms.calc = calc
        assert atoms.get_potential_energy() == pytest.approx(expected[-1], abs=2e-5)
    np.testing.assert_allclose(np.sort(predicted), np.sort(expected), atol=2e-5)


def energy_with_edges_from_ase(calc: Any, atoms: Atoms) -> float:
    """The calculator's network and normaliser on a graph that none of our code made, eV."""
    trainer = calc.trainer
    network = trainer._unwrapped_model.network.eval()
    target, source, vectors = neighbor_list("ijD", atoms, MODEL["cutoff"])
    arguments = (
        torch.from_numpy(atoms.numbers).long(),
        torch.from_numpy(np.stack([source, target])),
        torch.from_numpy(vectors).float(),
        torch.zeros(len(atoms), dtype=torch.long),
        1,
    )
    with torch.no_grad():
        return float(trainer.normalizers["energy"].denorm(network(*arguments)["energy"]))


def test_training_saw_those_edges(folder: Path) -> None:
    """The loss of the first evaluation is that of predictions with ASE's edges: no edge was missing in training."""
    calc = calculator(folder / "checkpoints/run/checkpoint.pt", cpu=True)
    errors = [
        abs(energy_with_edges_from_ase(calc, atoms) - atoms.get_potential_energy())
        for seed in (6, 7)
        for atoms in structures(seed)
    ]
    last = max(small_runs.losses(folder, "run", "val/energy_mae").items())[1]
    assert last == pytest.approx(np.mean(errors), rel=1e-3)


def test_records_say_what_repeats(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "a.traj", structures(0))
    assert main(["make-lmdb", str(tmp_path / "a.traj"), str(tmp_path / "out"), "--task", "s2ef", "--edges", "4"]) == 0
    records = [SafeLmdbDataset({"src": str(tmp_path / "out/data.lmdb")})[index] for index in range(4)]
    for record, atoms in zip(records, structures(0)):
        assert record.pbc.tolist() == [atoms.pbc.tolist()]
        moved = record.pos.numpy() - atoms.positions
        counts = np.linalg.solve(atoms.get_cell(complete=True).array.T, moved.T).T
        np.testing.assert_allclose(counts, counts.round() * atoms.pbc, atol=1e-5)
        assert record.edge_index.shape[1] == len(neighbor_list("i", atoms, 4.0))


def model_with(**keys: Any) -> HDGNN:
    return HDGNN(**{**{key: value for key, value in MODEL.items() if key != "name"}, **keys})


def stored(atoms: Atoms, cutoff: float) -> Batch:
    """A batch that has the edges of its records."""
    record = batch_of(atoms).to_data_list()[0]
    store_edges(record, Search(cutoff, 10_000))
    return Batch.from_data_list([record])


@pytest.mark.parametrize("cutoff", [4.5, 4.6, 5.2, 6.1, 8.2])
def test_stored_edges_up_to_the_models_own_cutoff(cutoff: float) -> None:
    """Batches hold cutoffs in float32, in which some are smaller."""
    model, batch = model_with(cutoff=cutoff, otf_graph=False), stored(structures(0)[0], cutoff)
    assert model.plain_graph(batch).edge_index.shape[1] == batch.edge_index.shape[1]
    with pytest.raises(DataError, match="the records have edges up to"):
        model_with(cutoff=cutoff + 0.001, otf_graph=False).plain_graph(batch)


def test_each_structure_of_a_batch_needs_edges_up_to_the_models_cutoff() -> None:
    """That those of another one reach farther does not help."""
    parts = [stored(structures(0)[0], cutoff).to_data_list()[0] for cutoff in (6.0, 5.0)]
    model = model_with(cutoff=5.5, otf_graph=False)
    assert model.plain_graph(Batch.from_data_list(parts[:1])).edge_index.shape[1] > 0
    for records in (parts, parts[::-1]):
        with pytest.raises(DataError, match=r"the records have edges up to 5 Å, but the model's cutoff is 5\.5 Å"):
            model.plain_graph(Batch.from_data_list(records))


@pytest.mark.parametrize("pbc", [None, (True, True, False), (False, True, False)])
def test_stored_edges_follow_the_rule_of_periodicity(pbc: tuple[bool, bool, bool] | None) -> None:
    """With ``use_pbc: false``, or ``pbc`` changed after edges were stored: those of a search that stores nothing."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    batch, found = stored(atoms, 5.0), []
    if pbc is not None:
        batch.pbc = torch.tensor([pbc])
    for otf_graph in (True, False):
        graph = model_with(cutoff=5.0, use_pbc=pbc is not None, otf_graph=otf_graph).plain_graph(batch)
        columns = torch.cat([graph.edge_index.T.double(), graph.edge_vec.double() + 0.0], dim=1)
        found.append(Counter(map(tuple, (columns * 1e3).round().long().tolist())))
    assert found[0] == found[1] and 0 < sum(found[1].values()) < batch.edge_index.shape[1]
