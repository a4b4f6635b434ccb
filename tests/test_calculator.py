"""A model trained on forces relaxes a structure through ASE, in a process that knows nothing but the checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import preloaded
import pytest
import small_runs
import torch
import yaml
from ase import Atoms
from ase.build import add_adsorbate, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import read, write

from fairchem_hdgnn import calculator
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.host.calculator import calculator as network_calculator

MODEL = {
    "name": "fairchem_hdgnn.ESCN",
    "lmax": 2,
    "mmax": 1,
    "num_layers": 2,
    "sphere_channels": 8,
    "hidden_channels": 16,
    "edge_channels": 8,
    "num_sphere_samples": 24,
    "distance_resolution": 0.2,
    "cutoff": 4.0,
    "max_neighbors": 60,  # all: the fixed layer has neighbours at equal distances, of which a limit would take any
    "regress_forces": True,
    "otf_graph": True,
    "frames": "fixed",
    "readout_init": "random",
}

RELAXATION = """
import json, sys
from ase.io import read, write
from ase.optimize import BFGS
import fairchem_hdgnn

checkpoint, start, end = sys.argv[1:]
atoms = read(start)
atoms.calc = fairchem_hdgnn.calculator(checkpoint, cpu=True)
energy, forces = atoms.get_potential_energy(), atoms.get_forces()
with BFGS(atoms, logfile=None, maxstep=0.08) as optimizer:
    optimizer.run(fmax=0.05, steps=8)
write(end, atoms)
print(json.dumps({"energy": energy, "forces": forces.tolist()}))
"""


def slab(height: float, seed: int) -> Atoms:
    """Cu(111) with O at ``height`` Å over a hollow site, atoms off their places, the lower layer fixed."""
    atoms = fcc111("Cu", (2, 2, 2), vacuum=8.0)
    add_adsorbate(atoms, "O", height, "fcc")
    atoms.info.clear()
    atoms.pbc = True
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 2))
    if seed:
        atoms.rattle(0.08, seed=seed)
    return atoms


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run on frames whose energies and forces are those of ASE's EMT potential."""
    folder = tmp_path_factory.mktemp("forces")
    for split, seeds in (("train", range(1, 33)), ("val", range(33, 39))):
        frames = []
        for seed in seeds:
            atoms = slab(0.9 + 1.2 * (seed % 8) / 7, seed)
            atoms.calc = EMT()
            results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces(apply_constraint=False)}
            atoms.calc = SinglePointCalculator(atoms, **results)
            frames.append(atoms)
        write(folder / f"{split}.traj", frames)
        assert main(["make-lmdb", str(folder / f"{split}.traj"), str(folder / split), "--task", "s2ef"]) == 0
    energies = [atoms.get_potential_energy() for atoms in read(folder / "train.traj", ":")]
    normaliser = {
        "energy": {"mean": float(np.mean(energies)), "stdev": float(np.std(energies))},
        "forces": {"mean": 0.0, "stdev": 1.0},
    }
    config = yaml.safe_load(small_runs.write_config(folder / "template", MODEL).read_text())
    config["dataset"] = {
        "train": {"src": str(folder / "train/data.lmdb"), "format": "safe_lmdb"},
        "val": {"src": str(folder / "val/data.lmdb"), "format": "safe_lmdb"},
    }
    config["dataset"]["train"]["transforms"] = {"normalizer": normaliser}
    config["outputs"]["forces"] = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
    config["loss_functions"].append({"forces": {"fn": "l2mae", "coefficient": 10}})
    config["evaluation_metrics"]["metrics"]["forces"] = ["mae"]
    config["evaluation_metrics"]["primary_metric"] = "forces_mae"
    config["optim"].update(max_epochs=24, eval_every=96, checkpoint_every=96, lr_initial=0.01, lr_milestones=[150])
    (folder / "config.yml").write_text(yaml.safe_dump(config))
    small_runs.train(folder / "config.yml", "run")
    return folder


def test_relaxation_in_a_fresh_process(folder):
    checkpoint = folder / "checkpoints/run/best_checkpoint.pt"
    start = slab(1.9, seed=0)
    write(folder / "start.traj", start)
    command = [sys.executable, "-c", RELAXATION, str(checkpoint), str(folder / "start.traj"), str(folder / "end.traj")]
    done = preloaded.run(command, small_runs.ENVIRONMENT, folder)
    assert done.returncode == 0, done.stderr[-3000:]
    there = json.loads(done.stdout.splitlines()[-1])

    start.calc = calculator(checkpoint, cpu=True)
    assert there["energy"] == pytest.approx(start.get_potential_energy(), abs=1e-5)
    np.testing.assert_allclose(there["forces"], start.get_forces(), atol=1e-4)

    end = read(folder / "end.traj")
    fixed = start.constraints[0].index
    np.testing.assert_allclose(end.positions[fixed], start.positions[fixed], atol=1e-8)
    truth = []
    for atoms in (start, end):
        atoms.calc = EMT()
        truth.append(atoms.get_potential_energy())
    assert truth[1] < truth[0] - 0.1, "the model leads downhill in the potential that it learned"


def test_calculator_agrees_with_predict(folder):
    checkpoint = folder / "checkpoints/run/best_checkpoint.pt"
    options = InferenceOptions(cpu=True, progress=False)
    predictions = predict_splits(checkpoint, {"val": folder / "val/data.lmdb"}, options)["val"]
    blocks = np.split(predictions.forces, np.cumsum(predictions.free_atoms)[:-1])
    calc = calculator(checkpoint, cpu=True)
    for frame, atoms in enumerate(read(folder / "val.traj", ":")):
        atoms.calc = calc
        position = predictions.ids.tolist().index(f"val_{frame}")
        free = np.setdiff1d(np.arange(len(atoms)), atoms.constraints[0].index)
        assert atoms.get_potential_energy() == pytest.approx(predictions.energy[position], abs=1e-4)
        np.testing.assert_allclose(atoms.get_forces()[free], blocks[position], atol=1e-3)


@pytest.mark.parametrize("make", [calculator, network_calculator])
@pytest.mark.parametrize("cell", [None, 2])
def test_cell_vectors_that_are_missing_are_named(folder, cell, make):
    atoms = slab(1.5, 0)
    atoms.calc = make(folder / "checkpoints/run/best_checkpoint.pt", cpu=True)
    if cell is None:
        atoms.cell[:] = 0
    else:
        atoms.cell[cell] = 0
    atoms.pbc = True
    with pytest.raises(DataError, match=r"is periodic .*; set its cell, or atoms.pbc = False"):
        atoms.get_potential_energy()
    atoms.pbc = atoms.cell.any(1)
    assert np.isfinite(atoms.get_potential_energy())


@pytest.mark.parametrize("make", [calculator, network_calculator])
def test_a_molecule_is_not_cut_by_a_box_that_the_model_ignores(folder, tmp_path, make):
    checkpoint = torch.load(folder / "checkpoints/run/best_checkpoint.pt", weights_only=True)
    checkpoint["config"]["model"]["use_pbc"] = False
    torch.save(checkpoint, tmp_path / "molecules.pt")
    atoms = molecule("CH3CH2OH", cell=[15.0] * 3, pbc=True)
    atoms.center()
    atoms.calc = make(tmp_path / "molecules.pt", cpu=True)
    inside, forces = atoms.get_potential_energy(), atoms.get_forces()
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) == inside, "kept for the same atoms"
    atoms.positions -= 7.5
    assert atoms.get_potential_energy() == pytest.approx(inside, abs=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), forces, atol=1e-5)
