"""QM9: known molecules, statistics, sources that agree, and files that are whole or absent."""

from __future__ import annotations

import json
import pickle
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from qm9_files import LEFT_OUT, all_molecules, some_rows, write_sdf_folder, write_xyz_folder, xyz_text

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data import qm9
from fairchem_hdgnn.data.qm9 import Preparation, prepare
from fairchem_hdgnn.data.qm9_molecules import LABEL_DIGEST, SourceMolecule, collect
from fairchem_hdgnn.data.qm9_records import edges_within, record, split_rows
from fairchem_hdgnn.data.qm9_scores import score, table
from fairchem_hdgnn.data.qm9_sources import parse_xyz, read_source
from fairchem_hdgnn.data.qm9_targets import PUBLISHED_MAE, TARGETS
from fairchem_hdgnn.errors import DataError

CONFIGS = Path(__file__).parents[1] / "configs" / "qm9"
KCAL_PER_MOL_IN_EV = 0.0433641153
METHANE, WATER, BENZENE = 1, 3, 214


@pytest.fixture(scope="module")
def xyz_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_xyz_folder(tmp_path_factory.mktemp("qm9") / "xyz", some_rows(40))


@pytest.fixture(scope="module")
def prepared(xyz_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qm9") / "prepared"
    prepare(out, Preparation(str(xyz_folder), partial=True, progress=False))
    return out


def values_of(index: int) -> dict[str, float]:
    molecules = all_molecules()
    row = int(np.searchsorted(molecules.index, index))
    return dict(zip(TARGETS, molecules.targets()[row]))


def test_qm9pack_holds_the_whole_data_set():
    molecules = all_molecules()
    assert len(molecules) == 130_831
    assert molecules.index[0] == 1
    assert molecules.index[-1] == 133_885
    assert molecules.num_atoms.max() == 29
    assert set(np.unique(molecules.numbers)) == {1, 6, 7, 8, 9}
    assert molecules.label_digest() == LABEL_DIGEST


def test_atomisation_energies_are_those_of_the_data_set():
    # Columns u0_atom, u298_atom, h298_atom, g298_atom of gdb9.sdf.csv, kcal/mol.
    published = {
        METHANE: (-395.999594594, -398.643290011, -401.014646522, -372.471772148),
        WATER: (-213.087624032, -213.974294000, -215.159658000, -201.407170000),
    }
    for index, energies in published.items():
        for name, energy in zip(("u0", "u", "h", "g"), energies):
            assert values_of(index)[name] == pytest.approx(energy * KCAL_PER_MOL_IN_EV, abs=1e-3), (index, name)


def test_known_molecules():
    methane, water, benzene = values_of(METHANE), values_of(WATER), values_of(BENZENE)
    assert methane["mu"] == 0
    assert water["mu"] == pytest.approx(1.85, abs=0.01)  # debye, also the experimental value
    assert benzene["mu"] == 0
    assert benzene["gap"] == pytest.approx(6811, abs=1)  # meV
    assert benzene["gap"] == pytest.approx(benzene["lumo"] - benzene["homo"], abs=3)
    assert methane["zpve"] == pytest.approx(1217.7, abs=0.1)
    assert methane["alpha"] == 13.21
    assert water["cv"] == 6.002

    molecules = all_molecules()
    atoms = molecules.atoms(int(np.searchsorted(molecules.index, BENZENE)))
    carbon = molecules.positions[atoms][molecules.numbers[atoms] == 6]
    bonds = np.sort(np.linalg.norm(carbon[:, None] - carbon[None], axis=-1), axis=1)[:, 1:3]
    np.testing.assert_allclose(bonds, 1.393, atol=3e-3)


def test_statistics_of_the_training_set_are_those_of_the_configs():
    training = all_molecules().targets()[split_rows()["train"]]
    for column, name in enumerate(TARGETS):
        config = yaml.safe_load((CONFIGS / "_base" / f"qm9_target_{name}.yml").read_text())
        shipped = config["dataset"]["train"]["transforms"]["normalizer"][name]
        assert shipped["mean"] == pytest.approx(training[:, column].mean(), rel=1e-5), name
        assert shipped["rmsd"] == pytest.approx(training[:, column].std(), rel=1e-5), name


def test_split_is_the_documented_permutation():
    splits = split_rows()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 110_000, "val": 10_000, "test": 10_831}
    np.testing.assert_array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(130_831))
    np.testing.assert_array_equal(splits["train"][:5], [34769, 76096, 108805, 71268, 79788])
    np.testing.assert_array_equal(splits["test"][:5], [63823, 99719, 73336, 4824, 85384])


def test_xyz_archive_gives_the_same_records_as_qm9pack(xyz_folder: Path, tmp_path: Path):
    rows = some_rows(40)
    archive = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        for path in xyz_folder.glob("dsgdb9nsd_*.xyz"):
            tar.add(path, path.name)
    packed, targets = all_molecules(), all_molecules().targets()
    for source in (xyz_folder, archive):
        kind, stream = read_source(source, xyz_folder / "uncharacterized.txt")
        molecules = collect(stream)
        assert kind == "xyz"
        assert len(molecules) == len(rows)
        for k, row in enumerate(rows):
            ours = record(molecules, k, molecules.targets(), 5.0).to_dict()
            theirs = record(packed, row, targets, 5.0).to_dict()
            assert ours.keys() == theirs.keys()
            for name, value in theirs.items():
                assert torch.equal(ours[name], value) if isinstance(value, torch.Tensor) else ours[name] == value, name


def test_sdf_gives_the_same_labels_and_rounded_positions(tmp_path: Path):
    rows = some_rows(20)
    kind, stream = read_source(write_sdf_folder(tmp_path / "raw", rows))
    molecules, packed = collect(stream), all_molecules()
    assert kind == "sdf"
    np.testing.assert_array_equal(molecules.index, packed.index[rows])
    np.testing.assert_array_equal(molecules.properties, packed.properties[rows])
    expected = np.concatenate([packed.positions[packed.atoms(row)] for row in rows])
    np.testing.assert_allclose(molecules.positions, expected, atol=5.1e-5)


def test_uncharacterised_molecules_are_left_out(xyz_folder: Path):
    molecules = collect(read_source(xyz_folder)[1])
    assert not set(LEFT_OUT) & set(molecules.index)


def test_edges_are_all_pairs_within_the_cutoff():
    molecules = all_molecules()
    positions = molecules.positions[molecules.atoms(60_000)]
    source, target = edges_within(positions, 3.0)
    assert (np.diff(target) >= 0).all()
    pairs = {
        (i, j)
        for i in range(len(positions))
        for j in range(len(positions))
        if i != j and np.linalg.norm(positions[i] - positions[j]) <= 3.0
    }
    assert set(zip(source.tolist(), target.tolist())) == pairs


def test_records_are_what_the_trainer_reads(prepared: Path):
    dataset = LmdbDataset({"src": str(prepared / "train" / "data.lmdb")})
    graph = dataset[0]
    assert len(dataset) == 34
    assert graph.atomic_numbers.shape == graph.tags.shape == graph.fixed.shape == (graph.natoms,)
    assert graph.pos.dtype == torch.float32
    assert graph.cell.shape == (1, 3, 3)
    assert graph.edge_index.shape[0] == 2
    truth = values_of(graph.sid)
    assert {name: graph[name] for name in TARGETS} == pytest.approx(truth)
    natoms = np.load(prepared / "train" / "metadata.npz")["natoms"]
    assert natoms.tolist() == [dataset[k].natoms for k in range(len(dataset))]


def test_description_states_units_split_and_source(prepared: Path):
    description = json.loads((prepared / "qm9.json").read_text())
    assert description["units"]["gap"] == "meV"
    assert description["units"]["u0"] == "eV"
    assert description["targets"]["u0"]["atom_reference_eV"]["1"] == pytest.approx(-13.613, abs=1e-3)
    assert description["split"]["sizes"] == {"train": 34, "val": 3, "test": 3}


def test_an_interrupted_run_is_finished_by_the_next(xyz_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    preparation = Preparation(str(xyz_folder), partial=True, progress=False)
    write = qm9.write_lmdb

    def interrupted(directory: Path, records: object) -> int:
        if "val" in directory.name:
            (directory / "data.lmdb").write_bytes(b"half")
            raise KeyboardInterrupt
        return write(directory, records)

    monkeypatch.setattr(qm9, "write_lmdb", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(tmp_path, preparation)
    assert not (tmp_path / "val").exists()
    finished = (tmp_path / "train" / "data.lmdb").stat()

    monkeypatch.setattr(qm9, "write_lmdb", write)
    assert prepare(tmp_path, preparation) == {"train": 34, "val": 3, "test": 3}
    assert (tmp_path / "train" / "data.lmdb").stat() == finished
    assert len(LmdbDataset({"src": str(tmp_path / "val" / "data.lmdb")})) == 3


def test_a_damaged_file_is_found(xyz_folder: Path, tmp_path: Path):
    preparation = Preparation(str(xyz_folder), partial=True, progress=False)
    prepare(tmp_path, preparation)
    path = tmp_path / "test" / "data.lmdb"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test/data\.lmdb is missing or damaged .* remove"):
        prepare(tmp_path, preparation)


@pytest.mark.parametrize("name", ["qm9.json", "val/manifest.json"])
@pytest.mark.parametrize("content", ["", "{}", "[]"])
def test_a_damaged_description_is_named(xyz_folder: Path, tmp_path: Path, name: str, content: str):
    preparation = Preparation(str(xyz_folder), partial=True, progress=False)
    prepare(tmp_path, preparation)
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=rf"{name} is damaged: remove .* and run again"):
        prepare(tmp_path, preparation)


def test_other_options_need_another_folder(prepared: Path, xyz_folder: Path):
    with pytest.raises(DataError, match=r"was prepared with cutoff 5\.0, not 6\.0"):
        prepare(prepared, Preparation(str(xyz_folder), cutoff=6.0, partial=True, progress=False))
    another = Preparation(str(xyz_folder), xyz_folder / "uncharacterized.txt", partial=True, progress=False)
    with pytest.raises(DataError, match=r"was prepared with uncharacterised None, not .*uncharacterized\.txt"):
        prepare(prepared, another)


def test_an_incomplete_source_is_refused_unless_asked_for(
    xyz_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["prepare-qm9", str(tmp_path / "out"), "--source", str(xyz_folder)]) == 2
    assert "has 40 characterised molecules, but QM9 has 130,831" in capsys.readouterr().err
    assert main(["prepare-qm9", str(tmp_path / "out"), "--source", str(xyz_folder), "--partial"]) == 0
    assert "train/data.lmdb: 34 molecules" in capsys.readouterr().out


def test_changed_labels_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    properties = all_molecules().properties.copy()
    properties[77, 3] += 1e-6
    monkeypatch.setattr(qm9, "collect", lambda _: replace(all_molecules(), properties=properties))
    with pytest.raises(DataError, match="differ from those of QM9"):
        prepare(tmp_path, Preparation(progress=False))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.tar.bz2", "no such file or folder"),
        ("empty", "not dsgdb9nsd"),
        ("pyg", "rounds energies to about 1 meV"),
        ("no_list", "list of uncharacterised molecules is missing"),
        ("no_table", "has gdb9.sdf but no gdb9.sdf.csv"),
    ],
)
def test_unusable_sources_name_the_remedy(source: str, message: str, tmp_path: Path):
    for name in ("empty", "pyg", "no_list", "no_table"):
        (tmp_path / name).mkdir()
    (tmp_path / "pyg" / "qm9_v3.pt").write_bytes(b"")
    (tmp_path / "no_table" / "gdb9.sdf").write_bytes(b"")
    (tmp_path / "no_list" / "dsgdb9nsd_000001.xyz").write_text("")
    with pytest.raises(DataError, match=message):
        read_source(tmp_path / source)


def test_qm9pack_takes_no_list_of_molecules_to_leave_out(xyz_folder: Path):
    with pytest.raises(DataError, match=r"uncharacterized\.txt: qm9pack has no uncharacterised molecules"):
        read_source("qm9pack", xyz_folder / "uncharacterized.txt")


@pytest.mark.parametrize("shorter", ["gdb9.sdf", "gdb9.sdf.csv"])
def test_molecules_that_one_of_two_files_lacks_are_not_left_out_silently(tmp_path: Path, shorter: str):
    folder = write_sdf_folder(tmp_path / "raw", some_rows(5))
    end = {"gdb9.sdf": "$$$$\n", "gdb9.sdf.csv": "\n"}[shorter]
    parts = (folder / shorter).read_text().rstrip("\n").split(end)
    (folder / shorter).write_text(end.join(parts[:-1] if parts[-1] else parts[:-2]) + end)
    with pytest.raises(DataError, match=f"{shorter} has fewer molecules than"):
        list(read_source(folder)[1])


def test_a_truncated_file_is_named():
    text = xyz_text(all_molecules(), 100)
    with pytest.raises(DataError, match=r"dsgdb9nsd_000101\.xyz: not a complete file"):
        parse_xyz(text[:200], "dsgdb9nsd_000101.xyz")


def test_a_truncated_archive_is_named(xyz_folder: Path, tmp_path: Path):
    archive = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(archive, "w:bz2") as tar:
        tar.add(xyz_folder, "xyz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"dsgdb9nsd\.xyz\.tar\.bz2.*again"):
        collect(read_source(archive, xyz_folder / "uncharacterized.txt")[1])


def test_a_molecule_that_is_there_twice_is_refused():
    molecule = SourceMolecule(7, ["H", "H"], np.array([[0.0, 0, 0], [0, 0, 0.74]]), [1.0] * 12)
    with pytest.raises(DataError, match="molecule 7 occurs twice"):
        collect([molecule, molecule])


def test_scores_are_in_published_units(prepared: Path, tmp_path: Path):
    with np.load(prepared / "molecules.npz") as arrays:
        rows, targets, names = arrays["test"], arrays["targets"], list(arrays["target_names"])
        index, training = arrays["index"], arrays["train"]
    path = tmp_path / "ocp_predictions.npz"
    columns = {name: targets[rows, names.index(name)][:, None].astype(np.float32) for name in ("gap", "u0")}
    offsets = {"gap": 25.0, "u0": -0.012}
    np.savez(path, ids=index[rows].astype(str), **{name: columns[name] + offsets[name] for name in columns})
    by_name = {entry.target.name: entry for entry in score(path, prepared)}
    assert by_name["gap"].mae == pytest.approx(25.0, abs=1e-3)
    assert by_name["u0"].mae == pytest.approx(12.0, abs=1e-2)  # meV
    assert by_name["u0"].split == "test"
    expected = np.abs(targets[rows, names.index("gap")] - targets[training, names.index("gap")].mean())
    assert by_name["gap"].mean_predictor_mae == pytest.approx(expected.mean())


def test_standard_error_is_that_of_the_mean(tmp_path: Path):
    hydrogens = np.array([[0.0, 0, 0], [0, 0, 0.74]])
    molecules = collect(SourceMolecule(k, ["H", "H"], hydrogens, [0.01 * k] * 12) for k in range(1, 9))
    rows = {"train": np.arange(3), "val": np.array([3]), "test": np.arange(4, 8)}
    molecules.save(tmp_path / "molecules.npz", rows)
    errors = np.array([1.0, 2.0, 4.0, 9.0])
    truth = molecules.targets()[rows["test"], list(TARGETS).index("gap")]
    np.savez(tmp_path / "p.npz", ids=molecules.index[rows["test"]].astype(str), gap=(truth + errors)[:, None])
    (entry,) = score(tmp_path / "p.npz", tmp_path)
    assert (entry.mae, entry.split) == (pytest.approx(4.0), "test")
    assert entry.standard_error == pytest.approx(errors.std() / 2)
    assert "| 4 ± 1.5 |" in table([entry])


def test_predictions_of_mixed_splits_are_refused(prepared: Path, tmp_path: Path):
    with np.load(prepared / "molecules.npz") as arrays:
        index = arrays["index"]
    np.savez(tmp_path / "p.npz", ids=index.astype(str), gap=np.zeros(len(index), dtype=np.float32))
    with pytest.raises(DataError, match="do not all belong to one split"):
        score(tmp_path / "p.npz", prepared)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"ids": ["1", "1_0"], "gap": [0.0, 0.0]}, "id 1_0 is not the number of a molecule"),
        ({"ids": ["1"], "gap": [np.nan]}, "'gap' is not one finite number for each of 1 ids"),
        ({"ids": ["1"], "gap": [0.0, 0.0]}, "'gap' is not one finite number for each of 1 ids"),
        ({"ids": ["1"]}, "contains none of the targets"),
        ({"ids": ["1", "2", "1"], "gap": [0.0, 0.0, 0.0]}, "molecule 1 occurs 2 times"),
        ({"ids": ["1", "01"], "gap": [0.0, 0.0]}, "molecule 0?1 occurs 2 times"),
        ({"ids": np.array([], dtype=str), "gap": []}, "has no molecules"),
        ({"ids": ["1" * 30], "gap": [0.0]}, "molecule 1{30} is not in the prepared data set"),
        ({"gap": [0.0]}, "has no 'ids'"),
    ],
)
def test_unusable_predictions_are_named(prepared: Path, tmp_path: Path, arrays: dict[str, list], message: str):
    path = tmp_path / "p.npz"
    np.savez(path, **{name: np.array(values) for name, values in arrays.items()})
    with pytest.raises(DataError, match=f"p.npz: .*{message}"):
        score(path, prepared)


def test_damaged_predictions_are_named(prepared: Path, tmp_path: Path):
    path = tmp_path / "p.npz"
    np.savez(path, ids=np.array(["1"]), gap=np.array([0.0]))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"p\.npz: not a readable \.npz of plain arrays"):
        score(path, prepared)


def test_published_table_covers_every_target():
    assert all(row.keys() == TARGETS.keys() for row in PUBLISHED_MAE.values())
    assert PUBLISHED_MAE["HDGNN"]["u0"] == 8.34
    assert PUBLISHED_MAE["Equiformer"]["mu"] == 0.011


def test_records_load_without_this_package(prepared: Path):
    dataset = LmdbDataset({"src": str(prepared / "val" / "data.lmdb")})
    content = dataset.env.begin().get(b"0")
    assert b"fairchem_hdgnn" not in content
    assert pickle.loads(content).natoms > 0
