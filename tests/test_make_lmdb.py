"""From structures that ASE reads to records: what is kept, what is derived, what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.db import connect
from ase.io import write
from ase.io.trajectory import Trajectory
from ase.neighborlist import neighbor_list
from ase.optimize import BFGS
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from oxygen_slabs import labelled, slab
from torch_geometric.data import Data

from fairchem_hdgnn import HDGNN, SafeLmdbDataset
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.neighbor_lists import Search
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
from fairchem_hdgnn.errors import DataError

IS2RE = Conversion("is2re")


def first_record(source: Path, out: Path, conversion: Conversion = IS2RE):
    make_lmdb(source, out, conversion, progress=False)
    return Records(out)[0]


# === formats =====================================================================================


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_each_format_gives_the_same_records(tmp_path, name):
    structures = [labelled(slab("Cu"), -1.5), labelled(slab("Pt", layers=2), 0.25)]
    if name == "a.db":
        with connect(str(tmp_path / name)) as database:
            for atoms in structures:
                database.write(atoms)
    else:
        write(tmp_path / name, structures)
    report = make_lmdb(tmp_path / name, tmp_path / "out", IS2RE, progress=False)
    assert report.statistics.num_records == 2 and report.read == 1

    path = str(tmp_path / "out/data.lmdb")
    safe = SafeLmdbDataset({"src": path})
    stored = [[safe[0], safe[1]]]
    del safe
    stock = LmdbDataset({"src": path})
    stored.append([stock[0], stock[1]])
    for records in stored:
        for record, atoms, energy in zip(records, structures, (-1.5, 0.25)):
            assert record.atomic_numbers.int().tolist() == atoms.numbers.tolist()
            np.testing.assert_allclose(record.pos, atoms.positions, atol=1e-6)
            np.testing.assert_allclose(record.cell[0], atoms.cell.array, atol=1e-6)
            assert record.y_relaxed == pytest.approx(energy) and record.natoms == len(atoms)
    assert np.load(tmp_path / "out/metadata.npz")["natoms"].tolist() == [len(atoms) for atoms in structures]
    batch = data_list_collater(stored[0], otf_graph=True)
    assert batch.batch.tolist() == [0] * len(structures[0]) + [1] * len(structures[1])


def test_directory_of_relaxations_gives_first_and_last_structures(tmp_path):
    (tmp_path / "runs/b").mkdir(parents=True)
    starts, ends = [], []
    for name in ("runs/a.traj", "runs/b/c.traj"):
        atoms = slab()
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
        atoms.calc = EMT()
        starts.append(atoms.copy())
        with Trajectory(str(tmp_path / name), "w", atoms) as trajectory, BFGS(atoms, logfile=None) as optimizer:
            optimizer.attach(trajectory)
            optimizer.run(fmax=0.5, steps=3)
        ends.append((atoms.copy(), atoms.get_potential_energy()))
    (tmp_path / "runs/notes.txt").write_text("not a structure")
    conversion = Conversion("is2re", relaxations=True, keep_unconverged=True)
    report = make_lmdb(tmp_path / "runs", tmp_path / "out", conversion, progress=False)
    assert report.read == 2 and [left.file for left in report.left_out] == ["notes.txt"]
    for record, start, (end, energy) in zip(Records(tmp_path / "out"), starts, ends):
        np.testing.assert_allclose(record.pos, start.positions, atol=1e-5)
        np.testing.assert_allclose(record.pos_relaxed, end.positions, atol=1e-5)
        assert record.y_relaxed == pytest.approx(energy) and record.y_init > record.y_relaxed
        assert record.fixed.bool().tolist() == [tag == 3 for tag in start.get_tags()]


def test_forces_on_fixed_atoms_do_not_tell_of_convergence(tmp_path):
    start, end = slab(), slab()
    end.positions[-1] += 0.1
    for atoms in (start, end):
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    end = labelled(end, force=0.001)
    end.calc.results["forces"][end.get_tags() == 3] = 1.0
    write(tmp_path / "a.traj", [labelled(start), end])
    report = make_lmdb(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", relaxations=True), progress=False)
    assert report.statistics.num_records == 1 and not report.left_out


def test_frames_become_s2ef_records(tmp_path):
    frames = [labelled(slab(), energy) for energy in (-1.0, -2.0)]
    frames[0].set_constraint(FixAtoms([0]))
    write(tmp_path / "frames.traj", frames)
    records = list(frames_of(tmp_path / "frames.traj", tmp_path / "out"))
    assert [(r.sid, r.fid, r.energy) for r in records] == [("frames", 0, -1.0), ("frames", 1, -2.0)]
    expected = frames[0].calc.results["forces"]
    np.testing.assert_allclose(records[0].forces, expected, atol=1e-6, err_msg="forces on fixed atoms are kept")
    assert records[0].fixed.tolist() == [1.0] + [0.0] * (len(frames[0]) - 1)


def frames_of(source: Path, out: Path) -> Records:
    make_lmdb(source, out, Conversion("s2ef"), progress=False)
    return Records(out)


def test_relaxed_positions_do_not_jump_over_the_boundary(tmp_path):
    start = labelled(slab())
    end = start.copy()
    end.positions[-1] += [0.2, 0.1, 0.0]
    end.positions[-1] -= end.cell[0] + end.cell[1]
    write(tmp_path / "a.traj", [start, labelled(end, force=0.01)])
    record = first_record(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", relaxations=True))
    np.testing.assert_allclose((record.pos_relaxed - record.pos)[-1], [0.2, 0.1, 0.0], atol=1e-4)


def test_relaxed_positions_cross_periodic_boundaries_only(tmp_path):
    """Of a slab that is periodic in the plane, an atom may move by more than half of the third cell vector."""
    start = slab()
    start.pbc = (True, True, False)
    end = start.copy()
    way = np.array([0.2, 0.1, 0.6 * start.cell[2, 2]])
    end.positions[-1] += way - end.cell[0]
    write(tmp_path / "a.traj", [labelled(start), labelled(end, force=0.01)])
    record = first_record(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", relaxations=True))
    np.testing.assert_allclose((record.pos_relaxed - record.pos)[-1], way, atol=1e-4)


def test_atoms_outside_the_cell_are_put_inside_with_all_their_edges(tmp_path):
    """fairchem's neighbour search misses edges of atoms outside; OC20's records have none there."""
    atoms = labelled(slab())
    end = atoms.copy()
    end.positions += 0.1
    for each in (atoms, end):
        each.positions[-1] += 2 * each.cell[0]
        each.positions[0] -= each.cell[1]
    write(tmp_path / "a.traj", [labelled(atoms), labelled(end, force=0.01)])
    record = first_record(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", True, edges=Search(6.0, 500)))
    inside = np.linalg.solve(record.cell[0].numpy().T, record.pos.numpy().T)
    assert inside.min() > -1e-5 and inside.max() < 1 + 1e-5
    np.testing.assert_allclose(record.pos_relaxed - record.pos, 0.1, atol=1e-5)
    assert record.edge_index.shape[1] == len(neighbor_list("i", atoms, 6.0))


def test_keys_of_info_and_ids(tmp_path):
    structures = [slab(), slab()]
    for index, atoms in enumerate(structures):
        atoms.info.update(sid=f"system{index}", e_ads=-0.5 - index)
        atoms.arrays["pos_relaxed"] = atoms.positions + 0.1
    write(tmp_path / "a.extxyz", structures)
    make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", Conversion("is2re", energy_key="e_ads"), progress=False)
    records = list(Records(tmp_path / "out"))
    assert [(r.sid, r.y_relaxed) for r in records] == [("system0", -0.5), ("system1", -1.5)]
    np.testing.assert_allclose(records[0].pos_relaxed - records[0].pos, 0.1, atol=1e-5)


def test_largest_numbers_of_a_set(tmp_path):
    frame = labelled(slab())
    frame.calc.results["forces"][:] = 0.0
    frame.calc.results["forces"][0] = -3.0, 0.0, 4.0
    write(tmp_path / "frame.traj", frame)
    report = make_lmdb(tmp_path / "frame.traj", tmp_path / "frames", Conversion("s2ef"), progress=False)
    assert report.statistics.largest_force == pytest.approx(5.0)
    start = slab()
    start.set_tags([1] * 12 + [2])
    end = start.copy()
    end.positions[0] += 0.3
    end.positions[-1, 2] += 0.2
    write(tmp_path / "a.traj", [labelled(start), labelled(end, force=0.01)])
    report = make_lmdb(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", relaxations=True), progress=False)
    assert report.statistics.displacements == [pytest.approx(0.3 * 3**0.5, abs=1e-4)]
    assert report.statistics.adsorbate_displacements == [pytest.approx(0.2, abs=1e-4)]


# === edges =======================================================================================


def test_stored_edges_give_the_energies_of_edges_made_on_the_fly(tmp_path):
    structures = [labelled(slab("Cu")), labelled(slab("Pt", layers=2))]
    write(tmp_path / "a.traj", structures)
    make_lmdb(tmp_path / "a.traj", tmp_path / "out", Conversion("is2re", edges=Search(5.0, 12)), progress=False)
    keys = {"lmax": 2, "num_layers": 2, "sphere_channels": 4, "hidden_channels": 8, "cutoff": 5.0, "max_neighbors": 12}
    torch.manual_seed(0)
    model = HDGNN(**keys, regress_forces=False, frames="fixed", readout_init="random", otf_graph=True).eval()
    records = list(Records(tmp_path / "out"))
    on_the_fly = model(data_list_collater(records, otf_graph=True))["energy"]
    model.otf_graph = False
    batch = data_list_collater(records, otf_graph=False)
    stored = model(batch)["energy"]
    torch.testing.assert_close(stored, on_the_fly, atol=1e-5, rtol=1e-5)
    batch.edge_index, batch.cell_offsets = batch.edge_index[:, 1:], batch.cell_offsets[1:]
    batch.neighbors[0] -= 1
    assert not torch.allclose(model(batch)["energy"], on_the_fly, atol=1e-5), "the stored edges are not looked at"


# === commands ====================================================================================


def test_commands_say_what_they_found(tmp_path, capsys):
    write(tmp_path / "a.extxyz", [labelled(slab(), -1.0), labelled(slab("Pt"), -2.0)])
    out = tmp_path / "out"
    assert main(["make-lmdb", str(tmp_path / "a.extxyz"), str(out), "--task", "is2re"]) == 0
    printed = capsys.readouterr().out
    assert "2 IS2RE records" in printed and "from ASE's layer numbers (2 systems)" in printed
    assert "mean -1.5000, std 0.5000, median -1.5000, min -2.0000, max -1.0000 eV" in printed

    assert main(["inspect", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 records" in printed and "0 subsurface 16, 1 surface 8, 2 adsorbate 2" in printed
    assert main(["inspect", str(out / "data.lmdb"), "1"]) == 0
    printed = capsys.readouterr().out
    assert "y_relaxed" in printed and "-2.0 (float) eV" in printed and "Pt12O" in printed
    assert main(["inspect", str(out), "2"]) == 2
    assert "no record 2; its 2 records are numbered from 0 to 1" in capsys.readouterr().err


def test_target_stats_compares_with_the_config(tmp_path, capsys):
    write(tmp_path / "a.extxyz", [labelled(slab(), -1.0), labelled(slab("Pt"), -2.0)])
    make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", IS2RE, progress=False)
    config = tmp_path / "config.yml"
    for mean, deviation, status in ((-1.5, "stdev", 0), (-1.5, "rmsd", 0), (-1.0, "stdev", 1)):
        transforms = {"normalizer": {"energy": {"mean": mean, deviation: 0.5}}}
        train = {"key_mapping": {"y_relaxed": "energy"}, "transforms": transforms}
        config.write_text(yaml.safe_dump({"dataset": {"train": train}}))
        assert main(["target-stats", str(tmp_path / "out"), "--config", str(config)]) == status
        printed = capsys.readouterr().out
        assert "mean -1.500000, std 0.500000" in printed
        assert ("mean: -1.0000 in the config, -1.5000 in the data" in printed) == bool(status)
    train["transforms"]["element_references"] = {"energy": {"file": "elements.npz"}}
    config.write_text(yaml.safe_dump({"dataset": {"train": train}}))
    assert main(["target-stats", str(tmp_path / "out"), "--config", str(config)]) == 0
    assert "not compared: its normalizer (mean -1.000000, stdev 0.500000) is that of what" in capsys.readouterr().out


@pytest.mark.parametrize(("mean", "stdev"), [(-2.0, 0.5), (-1.0, 0.5), (-1.5, 0.3), (-1.5, 0.8)])
def test_target_stats_finds_deviations_of_either_sign(tmp_path, capsys, mean, stdev):
    write(tmp_path / "a.extxyz", [labelled(slab(), -1.0), labelled(slab("Pt"), -2.0)])
    make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", IS2RE, progress=False)
    transforms = {"normalizer": {"energy": {"mean": mean, "stdev": stdev}}}
    train = {"key_mapping": {"y_relaxed": "energy"}, "transforms": transforms}
    (tmp_path / "config.yml").write_text(yaml.safe_dump({"dataset": {"train": train}}))
    assert main(["target-stats", str(tmp_path / "out"), "--config", str(tmp_path / "config.yml")]) == 1
    printed = capsys.readouterr().out
    assert (f"mean: {mean:.4f} in the config, -1.5000 in the data" in printed) == (mean != -1.5)
    assert (f"stdev: {stdev:.4f} in the config, 0.5000 in the data" in printed) == (stdev != 0.5)


@pytest.mark.parametrize(("info", "label"), [({"energy": -1.2502}, -1.2502), ({"y_relaxed": 7.0}, 7.0)])
def test_energies_that_do_not_contradict_each_other(tmp_path, info, label):
    write(tmp_path / "a.traj", with_info(**info))
    assert first_record(tmp_path / "a.traj", tmp_path / "out").y_relaxed == pytest.approx(label)


@pytest.mark.parametrize(("strain", "noted"), [(0.3, True), (0.0, False)])
def test_energies_of_structures_before_their_relaxation_are_noted(tmp_path, capsys, strain, noted):
    """IS2RE's label is the energy of the relaxed structure; forces tell that this one is not."""
    atoms = slab()
    forces = np.zeros((len(atoms), 3))
    forces[-1, 2] = strain
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=forces)
    write(tmp_path / "a.traj", atoms)
    for task in ("is2re", "s2ef"):
        assert main(["make-lmdb", str(tmp_path / "a.traj"), str(tmp_path / task), "--task", task]) == 0
        note = "Note: 1 structures have forces above 0.1 eV/Å, first a" in capsys.readouterr().out
        assert note == (noted and task == "is2re")


@pytest.mark.parametrize("relaxations", [False, True])
def test_no_label_is_left_in_a_test_split(tmp_path, relaxations):
    atoms = with_info(y_relaxed=-1.0, y_init=0.5)
    atoms.set_array("pos_relaxed", atoms.positions + 0.1)
    write(tmp_path / "a.extxyz", [atoms, labelled(slab(), force=0.01)] if relaxations else [atoms])
    conversion = Conversion("is2re", relaxations, labelled=False)
    record = first_record(tmp_path / "a.extxyz", tmp_path / "out", conversion)
    assert not {"y_relaxed", "y_init", "pos_relaxed", "energy", "forces"} & set(record.keys())


def test_inspect_names_a_record_without_a_structure(tmp_path, capsys):
    write_lmdb(tmp_path, [Data(natoms=2, pos=torch.zeros(2, 3))])
    for arguments in ([], ["0"]):
        assert main(["inspect", str(tmp_path / "data.lmdb"), *arguments]) == 2
        assert "record 0: has no 'atomic_numbers', so no structure" in capsys.readouterr().err


def test_inspect_shows_a_molecule_without_a_cell(tmp_path, capsys):
    write_lmdb(tmp_path, [Data(natoms=2, pos=torch.zeros(2, 3), atomic_numbers=torch.tensor([6, 8]))])
    assert main(["inspect", str(tmp_path / "data.lmdb"), "0"]) == 0
    assert "CO" in capsys.readouterr().out


@pytest.mark.parametrize("index", [[], ["0"]])
def test_inspect_shows_records_that_cannot_be_trained_on(tmp_path, capsys, index):
    record = Data(natoms=2, pos=torch.zeros(2, 3), atomic_numbers=torch.tensor([6.0, 300.0]))
    record.pos_relaxed, record.y_relaxed, record.energy = torch.zeros(3, 3), "low", torch.tensor(-2)
    write_lmdb(tmp_path, [record])
    assert main(["inspect", str(tmp_path / "data.lmdb"), *index]) == 0
    printed = capsys.readouterr().out
    assert "300" in printed and "y_relaxed" in printed and "-2" in printed


# === faults ======================================================================================


def with_tags(tags: int) -> Atoms:
    atoms = labelled(slab())
    atoms.set_tags(tags)
    return atoms


def with_id(atoms: Atoms) -> Atoms:
    atoms.info["sid"] = 7
    return atoms


def with_info(**info: object) -> Atoms:
    atoms = labelled(slab())
    atoms.info.update(info)
    return atoms


def with_nan() -> Atoms:
    atoms = labelled(slab())
    atoms.positions[0, 0] = np.nan
    return atoms


def with_cell_vector(vector: Sequence[float]) -> Atoms:
    """The slab with another third cell vector."""
    atoms = labelled(slab())
    atoms.cell[2] = vector
    return atoms


def with_coinciding_atoms() -> Atoms:
    """The last atom in the place of the first one's image."""
    atoms = labelled(slab())
    atoms.positions[-1] = atoms.positions[0] + atoms.cell[0] - atoms.cell[1]
    return atoms


def with_element(number: int) -> Atoms:
    atoms = labelled(slab())
    atoms.numbers[3] = number
    return atoms


@pytest.mark.parametrize(
    ("structures", "conversion", "message"),
    [
        (
            [slab()],
            IS2RE,
            r"a\.traj, structure 0: no 'energy' \(its info has .*--energy-key, give a table with --energies",
        ),
        ([labelled(slab(), np.nan)], IS2RE, "structure 0: its energy is nan"),
        ([with_info(y_relaxed="low")], IS2RE, "structure 0: its energy is 'low', not a number in eV"),
        ([with_info(y_init=[1.0, 2.0])], IS2RE, "structure 0: its y_init is .*, not a number in eV"),
        ([with_info(fid="a")], Conversion("s2ef"), "structure 0: its fid is 'a', not a whole number"),
        (
            [labelled(slab()), with_nan()],
            Conversion("is2re", relaxations=True),
            "structure 0: its relaxed positions are not three finite",
        ),
        ([with_nan()], IS2RE, "structure 0: positions or cell are not finite"),
        ([with_cell_vector([0, 0, 0])], IS2RE, r"structure 0: its cell has 2 vectors; add vacuum"),
        ([with_cell_vector([1, 1, 0])], IS2RE, r"structure 0: its cell \[.*\] has no volume; correct it"),
        ([with_coinciding_atoms()], IS2RE, "structure 0: atoms 0 and 12 coincide; remove one of them"),
        ([with_element(0)], IS2RE, "structure 0: atom 3 is X, which is no element; remove it"),
        (
            [with_info(energy=7.0)],
            IS2RE,
            "structure 0: has two energies, 7 eV in its info and -1.25 eV in its calculator's .* --energy-key energy",
        ),
        ([with_tags(5)], IS2RE, r"structure 0: its tags \[5\] are neither OC20's"),
        ([with_id(labelled(slab())), with_id(labelled(slab()))], IS2RE, "a second structure with the id 7"),
        ([labelled(slab())], Conversion("is2re", relaxations=True), "has one structure, not a relaxation"),
        (
            [labelled(slab()), labelled(slab("Pt"))],
            Conversion("is2re", relaxations=True),
            "the atoms of its initial and relaxed structure differ",
        ),
    ],
)
def test_faults_are_named_and_nothing_is_left(tmp_path, structures, conversion, message):
    write(tmp_path / "a.traj", structures)
    with pytest.raises(DataError, match=message):
        make_lmdb(tmp_path / "a.traj", tmp_path / "out", conversion, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["a.traj"]


@pytest.mark.parametrize("positions", [np.full((13, 3), np.nan), np.zeros((13, 2)), np.zeros(13)])
def test_relaxed_positions_that_are_none_are_refused(tmp_path, positions):
    atoms = labelled(slab())
    atoms.set_array("pos_relaxed", positions)
    write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(DataError, match=r"a\.extxyz, structure 0: its relaxed positions are not three finite numbers"):
        make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", IS2RE, progress=False)


@pytest.mark.parametrize("cutoff", ["0", "nan", "inf"])
def test_a_cutoff_that_is_none_is_refused(tmp_path, capsys, cutoff):
    command = ["make-lmdb", str(tmp_path / "a.traj"), str(tmp_path / "out"), "--task", "is2re", "--edges", cutoff]
    assert main(command) == 2
    assert "--edges and --max-neighbors must be finite and above zero" in capsys.readouterr().err


def test_existing_directory_is_not_touched(tmp_path):
    write(tmp_path / "a.traj", labelled(slab()))
    (tmp_path / "out").mkdir()
    (tmp_path / "out/data.lmdb").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        make_lmdb(tmp_path / "a.traj", tmp_path / "out", IS2RE, progress=False)
    assert (tmp_path / "out/data.lmdb").read_text() == "mine"


def test_sources_without_structures_are_named(tmp_path):
    with pytest.raises(DataError, match="no such file or directory"):
        make_lmdb(tmp_path / "nowhere", tmp_path / "out", IS2RE)
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(DataError, match=r"no usable structures; the first problem: notes\.md: ASE "):
        make_lmdb(tmp_path, tmp_path / "out", IS2RE, progress=False)
    with pytest.raises(DataError, match=r"no file there matches '\*\.traj'"):
        make_lmdb(tmp_path, tmp_path / "out", Conversion("is2re", pattern="*.traj"), progress=False)


@pytest.mark.parametrize("name", ["y_init", "pos_relaxed"])
def test_attributes_that_some_records_lack_are_left_out(tmp_path, capsys, name):
    source = tmp_path / "source"
    source.mkdir()
    for index in range(4):
        start, end = labelled(slab()), slab()
        end.positions[-1] += 0.1
        labelled(end, force=0.01)
        if name == "pos_relaxed":
            if index != 2:
                start.arrays["pos_relaxed"] = end.positions
            write(source / f"{index}.extxyz", start)
        else:
            if index == 2:
                start.calc = None
            write(source / f"{index}.traj", [start, end])
    flags = [] if name == "pos_relaxed" else ["--relaxations"]
    assert main(["make-lmdb", str(source), str(tmp_path / "out"), "--task", "is2re", *flags]) == 0
    note = f"Note: {name} is in no record, because only 3 of 4 have it; first without: 2."
    assert note in capsys.readouterr().out
    records = list(Records(tmp_path / "out"))
    assert {tuple(record.keys()) for record in records} == {tuple(records[0].keys())} and name not in records[0]
    assert [record.sid for record in records] == ["0", "1", "2", "3"]
    assert data_list_collater(records, otf_graph=True).y_relaxed.shape == (4,)


def test_ids_of_a_batch_are_of_one_type(tmp_path):
    structures = [with_info(sid=3456), with_info(sid="cafe"), with_info(sid=12)]
    write(tmp_path / "all.extxyz", structures)
    make_lmdb(tmp_path / "all.extxyz", tmp_path / "out", IS2RE, progress=False)
    records = list(Records(tmp_path / "out"))
    assert data_list_collater(records, otf_graph=True).sid == ["3456", "cafe", "12"]


def test_slabs_and_molecules_with_edges_are_one_batch(tmp_path):
    gas = labelled(molecule("CO"))
    write(tmp_path / "all.traj", [labelled(slab()), gas])
    conversion = Conversion("is2re", edges=Search(5.0, 20))
    make_lmdb(tmp_path / "all.traj", tmp_path / "out", conversion, progress=False)
    batch = data_list_collater(list(Records(tmp_path / "out")), otf_graph=True)
    assert batch.cell_offsets.shape == (batch.edge_index.shape[1], 3)


def test_forces_on_all_atoms_of_frames_are_labels(tmp_path):
    atoms = labelled(slab())
    assert not atoms.constraints
    write(tmp_path / "md.traj", [atoms, atoms])
    frames = frames_of(tmp_path / "md.traj", tmp_path / "out")
    assert all(not record.fixed.any() for record in frames)


def test_an_empty_id_is_none(tmp_path):
    table = tmp_path / "energies.csv"
    table.write_text("name,energy\nfirst,-1.5\n")
    atoms = slab()
    atoms.info["sid"] = ""
    write(tmp_path / "first.traj", atoms)
    conversion = Conversion("is2re", energies=table)
    make_lmdb(tmp_path / "first.traj", tmp_path / "out", conversion, progress=False)
    (record,) = Records(tmp_path / "out")
    assert (record.sid, record.y_relaxed) == ("first", -1.5)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (".", r"\. is the current directory: choose another path"),
        ("file/sub", r"cannot write file/sub: Not a directory"),
        ("n" * 300, r"cannot write n+: File name too long"),
    ],
)
def test_folders_that_cannot_be_made(tmp_path, monkeypatch, out, message):
    write(tmp_path / "one.extxyz", labelled(slab()))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    if out != ".":
        (tmp_path / "here/file").touch()
    with pytest.raises(DataError, match=message):
        make_lmdb(tmp_path / "one.extxyz", Path(out), IS2RE, progress=False)
