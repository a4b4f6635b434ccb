"""Recipes for energies with forces, and for total energies: from ASE's files to scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from fairchem.core.common import distutils
from small_runs import losses

from fairchem_hdgnn.checks.own_data import measure
from fairchem_hdgnn.checks.recipe import Tasks, make_recipe
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits

PER_ATOM = {"Cu": -241.3, "Pt": -712.9, "O": -431.8, "C": -155.4}
"""eV; added to EMT's energies, so that they are as large as those of DFT."""


def frame(random: np.random.Generator, total: bool) -> Atoms:
    """A slab of Cu and Pt with O or C, moved at random, with EMT's energy (eV) and forces (eV/Å)."""
    atoms = fcc111("Cu", (2, 1, 3), vacuum=6.0)
    atoms.symbols[random.permutation(len(atoms))[: random.integers(0, 3)]] = "Pt"
    add_adsorbate(atoms, random.choice(["O", "C"]), 1.2 + 0.3 * random.random(), "fcc")
    atoms.set_constraint(FixAtoms(np.flatnonzero(atoms.get_tags() == 3)))
    atoms.positions += random.normal(scale=0.08, size=atoms.positions.shape)
    atoms.info = {}
    atoms.calc = EMT()
    energy = atoms.get_potential_energy() + total * sum(PER_ATOM[symbol] for symbol in atoms.get_chemical_symbols())
    atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=atoms.get_forces(apply_constraint=False))
    return atoms


@pytest.fixture(scope="module", params=[False, True], ids=["energies", "total energies"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 and 8 frames, converted by ``make-lmdb``."""
    root = tmp_path_factory.mktemp("frames")
    random = np.random.default_rng(0)
    for split, count in (("train", 30), ("val_id", 8)):
        write(root / f"{split}.extxyz", [frame(random, request.param) for _ in range(count)])
        assert main(["make-lmdb", str(root / f"{split}.extxyz"), str(root / "own" / split), "--task", "s2ef"]) == 0
    return root / "own"


def total(own: Path) -> bool:
    return float(next(iter(Records(own / "train"))).energy) < -1000


def test_forces_and_energies_per_element_are_found(own: Path) -> None:
    recipe = make_recipe(own)
    records = list(Records(own / "train"))
    assert recipe.config["model"]["regress_forces"] is True
    assert [set(loss) for loss in recipe.config["loss_functions"]] == [{"energy"}, {"forces"}]
    assert recipe.config["dataset"]["train"]["key_mapping"] == {"energy": "energy", "forces": "forces"}
    free = torch.cat([record.forces[record.fixed == 0] for record in records])
    normalizer = recipe.config["dataset"]["train"]["transforms"]["normalizer"]
    assert normalizer["forces"] == {"mean": 0.0, "stdev": pytest.approx(free.square().mean().sqrt().item(), rel=1e-5)}
    assert recipe.element_references == total(own)
    assert normalizer["energy"]["stdev"] < 3


def test_energies_per_element_leave_what_a_fit_leaves(own: Path) -> None:
    data = measure(own / "train")
    matrix = np.array([[np.sum(numbers == z) for z in (6, 8, 29, 78)] for numbers in data.numbers], float)
    fitted, *_ = np.linalg.lstsq(matrix, data.energies, rcond=None)
    np.testing.assert_allclose(data.element_energies[[6, 8, 29, 78]], fitted, rtol=1e-7, atol=1e-7)
    assert np.count_nonzero(data.element_energies) == 4
    assert data.residuals.std == pytest.approx((data.energies - matrix @ fitted).std(), abs=1e-3)


@pytest.fixture(scope="module")
def trained(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the recipe, checked, and a narrow model trained on it."""
    folder = tmp_path_factory.mktemp("run")
    config = folder / "recipe.yml"
    assert main(["recipe", str(own), "--epochs", "12", "--out", str(config)]) == 0
    assert main(["check", str(config)]) == 0
    narrow = [f"--model.{key}=8" for key in ("sphere_channels", "hidden_channels", "edge_channels")]
    narrow += ["--optim.ema_decay=0.8", "--optim.max_lr=0.01"]
    run = ["--cpu", "--optim.num_workers=0", "--timestamp-id", "run", "--run-dir", str(folder), "--seed", "0"]
    try:
        assert main(["train", "--mode", "train", "--config-yml", str(config), *run, *narrow]) == 0
    finally:
        distutils.cleanup()
    return folder


def test_scores_are_those_that_the_training_logs(own: Path, trained: Path, capsys: pytest.CaptureFixture) -> None:
    """Two ways to the same numbers: the trainer's validation, and ``evaluate`` on a file read on its own."""
    checkpoint = trained / "checkpoints/run/checkpoint.pt"
    options = ["--data", str(own), "--splits", "val_id", "--cpu", "--out", str(trained / "results")]
    (trained / "results").mkdir(exist_ok=True)
    (trained / "results/parity.png").touch()
    assert main(["evaluate", "--checkpoint", str(checkpoint), "--names", "m", *options]) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"Not of this evaluation:\n  {trained}/results/parity.png\n"), "a plot of an earlier call"
    assert "Force MAE, meV/Å" in out and "Force cosine" in out and "EFwT" in out
    rows = {
        (cells[0], cells[3]): float(cells[5])
        for cells in (line.split(",") for line in (trained / "results/table.csv").read_text().splitlines()[1:])
    }
    for metric, name in (("force_mae", "forces_mae"), ("mae", "energy_mae")):
        logged = losses(trained, "run", f"val/{name}")
        assert rows["m", metric] == pytest.approx(1000 * logged[max(logged)], rel=1e-4, abs=0.2)
    assert rows["m", "force_mae"] < rows["median baseline", "force_mae"]
    header, first = (trained / "results/systems.csv").read_text().splitlines()[:2]
    assert header.endswith(",error_eV,force_mae_eV_per_A") and 0 < float(first.split(",")[-1]) < 5
    card = trained / "card.md"
    arguments = ["--table", str(trained / "results/table.json"), "--licence", "MIT", "--out", str(card)]
    assert main(["card", str(checkpoint), *arguments]) == 0
    text = card.read_text()
    assert "### Force MAE, meV/Å (95 % interval)" in text and "name: Force MAE, meV/Å" in text
    assert ("(eV an atom)" in text) == total(own), "energies per element"


def test_predictions_are_total_energies(own: Path, trained: Path) -> None:
    """A short training is within a few eV of energies of thousands of eV: those per element are added again."""
    found = predict_splits(
        trained / "checkpoints/run/checkpoint.pt", {"val_id": own / "val_id"}, InferenceOptions(cpu=True)
    )["val_id"]
    assert np.abs(found.errors).max() < 8
    if total(own):
        table = read_npz(trained / "recipe_element_references.npz")["element_references"]
        assert table.dtype == np.float32 and table.shape == (119,)
        assert found.labels.max() < -1000
    else:
        assert not (trained / "recipe_element_references.npz").exists()


def test_choices(own: Path) -> None:
    assert "forces" not in make_recipe(own, tasks=Tasks(forces=False)).config["outputs"]
    assert not make_recipe(own, tasks=Tasks(element_references=False)).element_references
    assert make_recipe(own, tasks=Tasks(element_references=True)).element_references
    assert make_recipe(own, "escn_so2").config["model"]["name"] == "fairchem_hdgnn.ESCN"
    with pytest.raises(ConfigError, match=r"--forces on and --noisy-nodes on: .* choose one"):
        make_recipe(own, tasks=Tasks(forces=True, noisy_nodes=True))


def test_oc20_names_and_relaxed_energies(own: Path, tmp_path: Path) -> None:
    """OC20 calls forces ``force``; neither a relaxed energy nor another property belongs to them."""
    changes = {
        "oc20": {"force": "forces", "y": "energy"},
        "relaxed": {"y_relaxed": "energy"},
        "gap": {"gap": "energy"},
    }
    for name, change in changes.items():
        for split in ("train", "val_id"):
            records = list(Records(own / split))
            for record in records:
                for new, old in change.items():
                    record[new] = record[old]
                    del record[old]
            (tmp_path / name / split).mkdir(parents=True)
            write_lmdb(tmp_path / name / split, records)
    gap = make_recipe(tmp_path / "gap", label="gap").config
    assert "forces" not in gap["outputs"] and gap["dataset"]["val"]["key_mapping"] == {"gap": "energy"}
    mapping = make_recipe(tmp_path / "oc20").config["dataset"]["val"]["key_mapping"]
    assert mapping == {"y": "energy", "force": "forces"}
    assert "forces" not in make_recipe(tmp_path / "relaxed").config["outputs"]


def test_data_that_cannot_be_learned_from(own: Path, tmp_path: Path) -> None:
    for name in ("composition", "nan", "without"):
        for split in ("train", "val_id"):
            records = list(Records(own / split))
            for record in records:
                if name == "composition":
                    record.energy = -3.0 * float(record.atomic_numbers.sum())
                elif name == "without":
                    del record.forces
            if name == "nan":
                records[3].forces[1] = float("nan")
            (tmp_path / name / split).mkdir(parents=True)
            write_lmdb(tmp_path / name / split, records)
    with pytest.raises(DataError, match=r"energy follows from the composition of the 30 structures; .* --element-ref"):
        make_recipe(tmp_path / "composition")
    with pytest.raises(DataError, match=r"train/data.lmdb, record 3: forces are not three finite numbers"):
        make_recipe(tmp_path / "nan")
    with pytest.raises(DataError, match=r"not every record has forces .* --task s2ef, or leave out --forces"):
        make_recipe(tmp_path / "without", tasks=Tasks(forces=True))
    with pytest.raises(DataError, match=r"no relaxed positions that differ .*--relaxations, --pairs.*--noisy-nodes"):
        make_recipe(tmp_path / "without", tasks=Tasks(noisy_nodes=True))


def test_elements_without_an_energy_are_named(own: Path, tmp_path: Path) -> None:
    for split in ("train", "val_id"):
        records = list(Records(own / split))
        if split == "val_id":
            records[2].atomic_numbers[0] = 47
        (tmp_path / split).mkdir()
        write_lmdb(tmp_path / split, records)
    with pytest.raises(DataError, match=r"val_id/data.lmdb, record 2: contains Ag, which no training structure has"):
        make_recipe(tmp_path, tasks=Tasks(element_references=True))
    assert not make_recipe(tmp_path, tasks=Tasks(element_references=False)).element_references


def test_both_files_are_kept(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = tmp_path / "recipe_element_references.npz"
    table.write_text("mine")
    arguments = ["recipe", str(own), "--element-references", "on", "--out", str(tmp_path / "recipe.yml")]
    assert main(arguments) == 2
    assert "recipe_element_references.npz: exists already" in capsys.readouterr().err
    assert table.read_text() == "mine" and not (tmp_path / "recipe.yml").exists()
    table.unlink()
    assert main(arguments) == 0
    config = yaml.safe_load((tmp_path / "recipe.yml").read_text())
    assert config["dataset"]["train"]["transforms"]["element_references"] == {"energy": {"file": str(table)}}


def test_large_energies_are_named(own: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """float32 keeps numbers of 20,000 to 0.001 only."""
    for split in ("train", "val_id"):
        records = list(Records(own / split))
        for record in records:
            record.energy = float(record.energy) - 20_000
        (tmp_path / split).mkdir()
        write_lmdb(tmp_path / split, records)
    assert main(["recipe", str(tmp_path), "--out", str(tmp_path / "recipe.yml")]) == 0
    assert "which rounds these by up to 0.001, but" in capsys.readouterr().out
    assert main(["recipe", str(own), "--out", str(tmp_path / "other.yml")]) == 0
    assert "float32" not in capsys.readouterr().out
