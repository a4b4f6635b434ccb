"""``--mode run-relaxations``: forces fall, fixed atoms stay, each structure is relaxed once, on one rank or two."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.io import read
from fairchem.core.common.relaxation import OptimizableBatch, ml_relaxation
from fairchem.core.common.relaxation.optimizable import Optimizable
from fairchem.core.common.relaxation.optimizers.lbfgs_torch import LBFGS
from small_runs import TINY_ESCN, arguments, load, losses, run_here, train, write_config
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Data
from two_ranks import train_on_two_ranks

from fairchem_hdgnn import calculator, cli
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.records import atoms_to_record
from fairchem_hdgnn.errors import ConfigError, DataError, TrainingError
from fairchem_hdgnn.host.fairchem1 import relaxation, relaxed
from fairchem_hdgnn.host.fairchem1.models import PlainModel
from fairchem_hdgnn.host.sections import Task

MODEL = {
    **TINY_ESCN, "num_layers": 1, "sphere_channels": 8, "hidden_channels": 16, "num_sphere_samples": 24,
    "distance_resolution": 0.2, "frames": "fixed", "regress_forces": True,
}  # fmt: skip
OPTIM = {
    "max_epochs": 30, "batch_size": 8, "eval_every": 1000, "checkpoint_every": 1000, "lr_initial": 0.01,
    "lr_milestones": [120], "lr_gamma": 0.2,
}  # fmt: skip
SIDS = (101, 102, 103)
FMAX = 0.05
STEPS = 60


def cluster(seed: int) -> Atoms:
    """Four copper atoms some tenths of an Å off their places, the first of them fixed."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    atoms = Atoms("Cu4", 0.82 * corners + 6, cell=np.eye(3) * 12, pbc=True, constraint=FixAtoms([0]))
    atoms.rattle(0.25, seed=seed)
    return atoms


def record(seed: int) -> Data:
    """With energy and forces of ASE's EMT potential, and the answers that a relaxation is scored by."""
    atoms = cluster(seed)
    atoms.calc = EMT()
    found = atoms_to_record(atoms, sid=seed)
    found.energy = found.energy_relaxed = float(atoms.get_potential_energy())
    found.forces = torch.tensor(atoms.get_forces(apply_constraint=False), dtype=torch.float32)
    found.pos_relaxed = found.pos + 0.1
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the forces of such clusters, and ``config.yml`` that relaxes three others."""
    folder = tmp_path_factory.mktemp("relaxations")
    path = write_config(folder, MODEL, **OPTIM)
    config = yaml.safe_load(path.read_text())
    records = [record(seed) for seed in range(48)]
    for name, part in {"train": records[:40], "val": records[40:], "relax": [record(sid) for sid in SIDS]}.items():
        (folder / "emt" / name).mkdir(parents=True)
        write_lmdb(folder / "emt" / name, part)
        source = {"src": str(folder / "emt" / name / "data.lmdb"), "format": "safe_lmdb", "key_mapping": None}
        config["dataset"].setdefault(name, {}).update(source)
    energies, forces = np.array([each.energy for each in records]), torch.cat([each.forces for each in records])
    normalizer = {"energy": (energies.mean(), energies.std()), "forces": (0.0, forces.std())}
    config["dataset"]["train"]["transforms"]["normalizer"] = {
        name: {"mean": float(mean), "stdev": float(stdev)} for name, (mean, stdev) in normalizer.items()
    }
    config["outputs"]["forces"] = {"level": "atom", "train_on_free_atoms": False, "eval_on_free_atoms": True}
    config["loss_functions"].append({"forces": {"fn": "l2mae", "coefficient": 5}})
    config["task"] = {
        "relax_opt": {"maxstep": 0.04},
        "relaxation_fmax": FMAX,
        "relaxation_steps": STEPS,
        "write_pos": True,
    }
    path.write_text(yaml.safe_dump(config))
    train(path, "run")
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, np.ndarray]:
    """The results of relaxing on one rank, in one batch, with trajectories."""
    relax(folder, "alone", f"--task.relax_opt.traj_dir={folder / 'alone'}")
    return results(folder, "alone")


def command(folder: Path, run: str, *overrides: str) -> list[str]:
    """fairchem's command line for relaxing the structures of ``config.yml``."""
    checkpoint = f"--checkpoint={folder / 'checkpoints/run/checkpoint.pt'}"
    return arguments(folder / "config.yml", run, "--mode=run-relaxations", checkpoint, *overrides)


def relax(folder: Path, run: str, *overrides: str) -> None:
    """Relax in this process."""
    relaxation.distutils.setup_env_local()
    run_here(command(folder, run, *overrides))


def arrays(folder: Path, run: str) -> dict[str, np.ndarray]:
    """What ``relaxed_positions.npz`` has; no other file is left beside it."""
    (path,) = (folder / "results" / run).iterdir()
    assert path.name == "relaxed_positions.npz"
    return read_npz(path)


def results(folder: Path, run: str) -> dict[str, np.ndarray]:
    """Relaxed positions by ``sid``."""
    found = arrays(folder, run)
    return dict(zip(found["ids"].tolist(), np.split(found["pos"], found["chunk_idx"])))


def test_forces_fall_and_fixed_atoms_stay(folder: Path, alone: dict[str, np.ndarray]) -> None:
    assert sorted(alone) == [str(sid) for sid in SIDS]
    assert sorted(path.name for path in (folder / "alone").iterdir()) == [f"{sid}.traj" for sid in SIDS]
    for sid in SIDS:
        start, end = cluster(sid), cluster(sid)
        end.set_positions(alone[str(sid)], apply_constraint=False)
        np.testing.assert_array_equal(end.positions[0], start.positions[0].astype(np.float32))
        frames = read(folder / "alone" / f"{sid}.traj", ":")
        np.testing.assert_allclose(frames[-1].positions, end.positions, atol=1e-5)

        energies = [frame.get_potential_energy() for frame in frames]
        largest = [np.linalg.norm(frame.get_forces()[1:], axis=1).max() for frame in frames]
        assert max(energies) <= energies[0] + 1e-4 and energies[-1] < energies[0] - 0.1
        assert largest[0] > 1 and (largest[-1] < FMAX or len(frames) == STEPS + 1)
        end.calc = calculator(folder / "checkpoints/run/checkpoint.pt", cpu=True)
        assert end.get_potential_energy() == pytest.approx(energies[-1], abs=1e-4)
        found = {key: values[SIDS.index(sid)] for key, values in arrays(folder, "alone").items() if len(values) == 3}
        assert found["energy"] == pytest.approx(energies[-1], abs=1e-6)
        assert found["fmax"] == pytest.approx(largest[-1], abs=1e-6) and found["converged"] == (largest[-1] < FMAX)

        start.calc, end.calc = EMT(), EMT()
        assert end.get_potential_energy() < start.get_potential_energy() - 0.1
        assert np.abs(end.get_forces()).max() < 0.2 * np.abs(start.get_forces()).max()


def test_errors_are_those_of_each_structure(folder: Path, tmp_path: Path) -> None:
    """fairchem subtracts each energy of a batch from each reference."""
    relax(folder, "one-step", f"--task.relax_opt.traj_dir={tmp_path}", "--task.relaxation_steps=1")
    positions, energies, distances = results(folder, "one-step"), [], []
    for sid in SIDS:
        reference = record(sid)
        energies.append(read(tmp_path / f"{sid}.traj", -1).get_potential_energy() - reference.energy_relaxed)
        distances.append(positions[str(sid)][1:] - reference.pos_relaxed[1:].numpy())
    (found,) = losses(folder, "one-step", "val/is2re_energy_mae").values()
    assert found == pytest.approx(np.abs(energies).mean(), abs=1e-4)
    (found,) = losses(folder, "one-step", "val/is2rs_positions_mae").values()
    assert found == pytest.approx(np.abs(distances).mean(), abs=1e-4)


@pytest.fixture(scope="module")
def two_ranks(folder: Path) -> None:
    """Two ranks that take different numbers of steps: relaxing, then in a training that goes on for an epoch."""
    training = ("--task.eval_relaxations=True", "--optim.max_epochs=51", "--optim.eval_every=153")
    training += (f"--checkpoint={folder / 'checkpoints/run/checkpoint.pt'}",)
    train_on_two_ranks(
        command(folder, "ranks", f"--task.relax_opt.traj_dir={folder / 'ranks'}", "--optim.eval_batch_size=2"),
        arguments(folder / "config.yml", "ranks-training", *training),
    )


def test_two_ranks_relax_each_structure_once(folder: Path, alone: dict[str, np.ndarray], two_ranks: None) -> None:
    traj_dir = folder / "ranks"
    assert sorted(path.name for path in traj_dir.iterdir()) == [f"{sid}.traj" for sid in SIDS]
    assert len({len(read(path, ":")) for path in traj_dir.iterdir()}) > 1
    together = results(folder, "ranks")
    assert together.keys() == alone.keys()
    for sid, positions in alone.items():
        np.testing.assert_allclose(together[sid], positions, atol=2e-3)
    for tag in ("val/is2re_energy_mae", "val/is2rs_positions_mae"):
        (found,), (expected,) = losses(folder, "ranks", tag).values(), losses(folder, "alone", tag).values()
        assert found == pytest.approx(expected, abs=2e-3)


def test_two_ranks_relax_amid_a_training(folder: Path, two_ranks: None) -> None:
    assert load(folder, "ranks-training")["step"] == 153
    assert list(losses(folder, "ranks-training", "val/is2rs_positions_mae")) == [153]
    assert sorted(read_npz(folder / "results/ranks-training/relaxed_positions.npz")["ids"]) == ["101", "102", "103"]


def test_ranks_do_not_wait_for_each_other_in_forward_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As DistributedDataParallel does for the buffers of a model; ranks make different numbers of steps."""
    monkeypatch.setattr(DistributedDataParallel, "forward", lambda *args, **kwargs: pytest.fail("waited"))
    relax(folder, "unwrapped", "--task.relaxation_steps=1")
    assert len(results(folder, "unwrapped")) == 3


def test_what_has_a_trajectory_is_done(
    folder: Path, alone: dict[str, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And its results are those of the trajectory."""
    caplog.set_level("INFO")
    shutil.copytree(folder / "alone", tmp_path / "some")
    (tmp_path / "some/102.traj").unlink()
    relax(folder, "some", f"--task.relax_opt.traj_dir={tmp_path / 'some'}")
    assert f"2 of 3 structures have a finished trajectory in {tmp_path / 'some'}" in caplog.text
    unchanged = (tmp_path / "some/102.traj").stat().st_mtime_ns
    relax(folder, "none", f"--task.relax_opt.traj_dir={tmp_path / 'some'}")
    assert (tmp_path / "some/102.traj").stat().st_mtime_ns == unchanged
    for run in ("some", "none"):
        found, expected = arrays(folder, run), arrays(folder, "alone")
        assert found.keys() == expected.keys()
        for key in ("ids", "chunk_idx", "converged"):
            assert found[key].tolist() == expected[key].tolist()
        for key in ("pos", "energy", "fmax"):
            np.testing.assert_allclose(found[key], expected[key], atol=2e-3)


def test_more_steps_relax_what_is_not_relaxed(
    folder: Path, alone: dict[str, np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    traj_dir = f"--task.relax_opt.traj_dir={tmp_path}"
    relax(folder, "few", traj_dir, "--task.relaxation_steps=2")
    found = arrays(folder, "few")
    assert not found["converged"].any() and (found["fmax"] > FMAX).all()
    assert re.search(
        r"0 of 3 structures are relaxed: no force on a free atom of 0\.05 eV/Å or more after at most 2 steps; not "
        r"relaxed: 10\d \(.* eV/Å\), 10\d .*; run it again with more",
        caplog.text,
    )
    assert {len(read(path, ":")) for path in tmp_path.iterdir()} == {3}
    relax(folder, "as-many", traj_dir, "--task.relaxation_steps=2")
    np.testing.assert_array_equal(arrays(folder, "as-many")["pos"], found["pos"])
    assert "relaxed again" not in caplog.text

    relax(folder, "more", traj_dir)
    assert "3 have another one, and are relaxed again" in caplog.text
    for sid, positions in results(folder, "more").items():
        np.testing.assert_allclose(positions, alone[sid], atol=2e-3)


def test_trajectories_of_another_model_are_refused(folder: Path, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    contents = load(folder, "run")
    name = next(iter(contents["state_dict"]))
    contents["state_dict"][name] = contents["state_dict"][name] + 1e-3
    torch.save(contents, tmp_path / "other.pt")
    shutil.copytree(folder / "alone", tmp_path / "some")
    before = (tmp_path / "some/101.traj").read_bytes()
    other = (f"--checkpoint={tmp_path / 'other.pt'}", f"--task.relax_opt.traj_dir={tmp_path / 'some'}")
    with pytest.raises(DataError, match=r"some/101\.traj: is of a model with other weights; choose another"):
        relax(folder, "other", *other)
    assert (tmp_path / "some/101.traj").read_bytes() == before
    end = relaxed.end_of(tmp_path / "some/101.traj")
    assert not relaxation._is_final(Task(), "another", tmp_path, end, again=True)


def test_damaged_trajectory_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "102.traj").write_bytes(b"half a frame")
    with pytest.raises(DataError, match=r"102\.traj: not a readable trajectory .*; delete it"):
        relax(folder, "damaged", f"--task.relax_opt.traj_dir={tmp_path}")


def test_unwritable_trajectory_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "102.traj_tmp").mkdir()
    with pytest.raises(DataError, match=r"102\.traj_tmp: a trajectory cannot be written \(Is a directory\)"):
        relax(folder, "unwritable", f"--task.relax_opt.traj_dir={tmp_path}")


def test_relaxations_change_nothing_of_a_training(folder: Path) -> None:
    """fairchem leaves the averaged weights in the model, and a path, which is no plain value, in checkpoints."""
    short = ("--optim.max_epochs=2", "--optim.eval_every=5", "--optim.checkpoint_every=5")
    train(folder / "config.yml", "plain", *short)
    relaxing = ("--task.eval_relaxations=True", "--task.relaxation_steps=2")
    train(folder / "config.yml", "relaxing", *short, *relaxing, f"--task.relax_opt.traj_dir={folder / 'during'}")
    plain, relaxed = load(folder, "plain"), load(folder, "relaxing")
    for name, value in plain["state_dict"].items():
        assert torch.equal(relaxed["state_dict"][name], value), name
    assert losses(folder, "relaxing") == losses(folder, "plain")
    assert sorted(losses(folder, "relaxing", "val/is2rs_positions_mae")) == [5, 10]
    assert sorted(path.name for path in (folder / "during").iterdir()) == ["step-10", "step-5"]
    assert len(list((folder / "during/step-10").glob("*.traj"))) == 3


def test_batch_that_does_not_fit_is_halved(
    folder: Path, alone: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = PlainModel.forward
    limit = 1

    def short_of_memory(self: PlainModel, data: Any) -> dict[str, torch.Tensor]:
        if len(data.natoms) > limit:
            raise RuntimeError("DefaultCPUAllocator: not enough memory")
        return forward(self, data)

    monkeypatch.setattr(PlainModel, "forward", short_of_memory)
    relax(folder, "halved")
    halved = results(folder, "halved")
    assert halved.keys() == alone.keys()
    for sid, positions in alone.items():
        np.testing.assert_allclose(halved[sid], positions, atol=2e-3)
    limit = 0
    with pytest.raises(TrainingError, match=r"out of memory on a batch of 1 structures.*sid 10"):
        relax(folder, "too-large")


@pytest.mark.parametrize("fmax, frames", [(FMAX, {2}), (1000.0, {1})], ids=["some steps", "none"])
def test_first_and_last_frame_only(fmax: float, frames: set[int], folder: Path, tmp_path: Path) -> None:
    relax(
        folder,
        f"short-{fmax}",
        f"--task.relax_opt.traj_dir={tmp_path}",
        f"--task.relaxation_fmax={fmax}",
        "--task.save_full_traj=False",
    )
    ends = {path.stem: read(path, ":") for path in tmp_path.iterdir()}
    assert {len(found) for found in ends.values()} == frames
    for sid, positions in results(folder, f"short-{fmax}").items():
        np.testing.assert_allclose(ends[sid][-1].positions, positions, atol=1e-5)


def test_fairchem_stays_as_it_was(folder: Path, alone: dict[str, np.ndarray]) -> None:
    with relaxation._instantiable():
        assert not inspect.isabstract(OptimizableBatch)
    assert inspect.isabstract(OptimizableBatch) == bool({"get_x"} & set(vars(Optimizable)))
    assert ml_relaxation.LBFGS is LBFGS


def without_forces(config: dict[str, Any]) -> None:
    del config["outputs"]["forces"], config["loss_functions"][1], config["evaluation_metrics"]


MISTAKES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no structures": (lambda config: config["dataset"].pop("relax"), r"dataset\.relax\.src: missing; set it to"),
    "structures where fairchem looked once": (
        lambda config: config["task"].update(relax_dataset=config["dataset"].pop("relax")),
        r"dataset\.relax\.src: missing.* 1\.10 ignores task\.relax_dataset",
    ),
    "no forces": (without_forces, r"outputs\.forces: missing; a relaxation needs forces"),
    "an unknown key": (
        lambda config: config["task"]["relax_opt"].update(name="lbfgs"), r"task\.relax_opt: unknown key 'name'"
    ),
    "a wrong value": (
        lambda config: config["task"].update(relaxation_fmax=-1), "task: 'relaxation_fmax' must be a positive number"
    ),
    "a cell to relax": (lambda config: config["task"].update(relax_cell=True), r"outputs\.stress: missing"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_have_one_line(mistake: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Before relaxing, and, in the same words, before a training that would relax."""
    edit, message = MISTAKES[mistake]
    config = yaml.safe_load((folder / "config.yml").read_text())
    edit(config)
    path = tmp_path / "config.yml"
    path.write_text(yaml.safe_dump(config))
    checkpoint = f"--checkpoint={folder / 'checkpoints/run/checkpoint.pt'}"
    refused(arguments(path, "run", "--mode=run-relaxations", checkpoint), message, capsys)
    path.write_text(yaml.safe_dump({**config, "task": {**config["task"], "eval_relaxations": True}}))
    refused(arguments(path, "run"), message, capsys)
    with pytest.raises(ConfigError, match=message):
        train(path, "run")


def refused(line: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    """Check that ``train`` says in one line why it does not start."""
    assert cli.main(["train", *line]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert re.match(f"fairchem-hdgnn train: error: {message}", printed), printed


def test_relaxing_needs_a_checkpoint(folder: Path, capsys: pytest.CaptureFixture) -> None:
    line = arguments(folder / "config.yml", "run", "--mode=run-relaxations")
    refused(line, "--checkpoint: missing; --mode run-relaxations needs", capsys)


def test_model_without_forces_is_refused(folder: Path, tmp_path: Path) -> None:
    """A checkpoint of energies alone, for a config that has forces; with the optimiser's state and without."""
    contents = load(folder, "run")
    weights = {name: value for name, value in contents["state_dict"].items() if "force" not in name}
    assert len(weights) < len(contents["state_dict"])
    contents["state_dict"] = weights
    contents["optimizer"]["param_groups"][0]["params"].pop()
    for _ in range(2):
        torch.save(contents, tmp_path / "energies.pt")
        with pytest.raises(
            DataError,
            match=r"energies\.pt: its weights do not match this config's model \(\S*force\S* is absent in the file",
        ):
            relax(folder, "energies", f"--checkpoint={tmp_path / 'energies.pt'}")
        contents.pop("optimizer", None)


def test_structures_need_not_be_periodic(folder: Path, alone: dict[str, np.ndarray], tmp_path: Path) -> None:
    """What ``make-lmdb`` writes: each structure says in which directions it repeats. All stand across a cell's end.

    One has no cell. Trajectories do not jump across cells.
    """
    (folder / "molecules").mkdir()
    records = [record(sid) for sid in SIDS]
    repeats = {"101": [False, False, False], "102": [True, True, False], "103": [True, True, True]}
    for each, pbc in zip(records, repeats.values()):
        each.pbc = torch.tensor([pbc])
        each.pos = each.pos + 6 * torch.tensor([0, 0, 1])
    records[0].cell = torch.zeros_like(records[0].cell)
    write_lmdb(folder / "molecules", records)
    source = f"--dataset.relax.src={folder / 'molecules/data.lmdb'}"
    relax(folder, "molecules", source, f"--task.relax_opt.traj_dir={tmp_path}")
    relaxed = results(folder, "molecules")
    assert relaxed.keys() == repeats.keys()
    for sid, positions in relaxed.items():
        np.testing.assert_allclose(positions - [0, 0, 6], alone[sid], atol=2e-3)
        frames = read(tmp_path / f"{sid}.traj", ":")
        assert frames[-1].pbc.tolist() == repeats[sid] and np.isfinite(frames[-1].get_potential_energy())
        np.testing.assert_array_equal(positions, frames[-1].positions)
        path = np.array([frame.positions for frame in frames])
        assert np.abs(np.diff(path, axis=0)).max() < 0.1


def test_labels_of_make_lmdb_are_known(folder: Path, tmp_path: Path) -> None:
    records = [record(sid) for sid in SIDS]
    for each in records:
        each.y_relaxed = each.energy_relaxed
        del each.energy_relaxed
    write_lmdb(tmp_path, records)
    for run, source in (("their-names", []), ("our-names", [f"--dataset.relax.src={tmp_path / 'data.lmdb'}"])):
        relax(folder, run, "--task.relaxation_steps=1", *source)
    for tag in ("val/is2re_energy_mae", "val/is2rs_positions_mae"):
        assert list(losses(folder, "our-names", tag).values()) == list(losses(folder, "their-names", tag).values())


def test_fairchems_trainer_is_refused_where_it_cannot_relax(
    folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = frozenset({"get_x"})
    monkeypatch.setattr(OptimizableBatch, "__abstractmethods__", asked, raising=False)
    line = command(folder, "run", "--trainer=ocp")
    refused(line, "trainer: 'ocp' cannot relax with the installed ASE.*write fairchem_hdgnn.Trainer", capsys)


def test_structures_of_one_name_are_refused(folder: Path) -> None:
    (folder / "twice").mkdir()
    write_lmdb(folder / "twice", [record(5), record(6), record(5)])
    with pytest.raises(DataError, match=r"dataset\.relax: 2 structures have sid 5.*renumber them"):
        relax(folder, "twice-run", f"--dataset.relax.src={folder / 'twice/data.lmdb'}")


def final(path: Path, end: Any) -> bool:
    return True


def test_names_that_cannot_be_those_of_results(tmp_path: Path) -> None:
    frames, slash = [record(5), record(5)], record(6)
    for fid, frame in enumerate(frames):
        frame.fid = fid
    slash.sid = "set/6"
    with pytest.raises(DataError, match=r"2 structures have sid 5.*frames of S2EF.*--task is2re --unlabelled"):
        relaxation._unfinished(frames, None, final)
    with pytest.raises(DataError, match=r"sid set/6 cannot be the name of a trajectory; omit"):
        relaxation._unfinished([slash], tmp_path, final)
    assert relaxation._unfinished([slash], None, final) == ([0], {})


def test_each_rank_needs_a_structure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxation.distutils, "get_world_size", lambda: 4)
    monkeypatch.setattr(relaxation.distutils, "broadcast_object_list", lambda *args, **kwargs: None)
    monkeypatch.setattr(relaxation, "on_first_rank", lambda look, device: look())
    with pytest.raises(ConfigError, match=r"dataset\.relax: 3 structures to relax on 4 ranks; start no more"):
        relaxation._share([record(sid) for sid in SIDS], None, final, torch.device("cpu"))
