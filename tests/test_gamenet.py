"""GAME-Net's FG set: folds, labels and records from the published layout, and one line for what is wrong with it."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import find_mic
from fairchem.core.datasets.lmdb_dataset import LmdbDataset
from gamenet_files import (
    ATOM_ENERGIES,
    FAMILIES,
    METALS,
    Files,
    adsorbed,
    example,
    gas,
    moved,
    shared_extract,
    structures_of,
)
from torch_geometric.data import Data

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.gamenet import Options, prepare_gamenet
from fairchem_hdgnn.data.gamenet_archive import Archive, kind_of
from fairchem_hdgnn.data.gamenet_folds import DIGEST, NUM_SYSTEMS, folds_digest, published_folds
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import DataError

ROOT = Path(__file__).parents[1]
ARCHIVE = Path(os.environ.get("GAMENET_ARCHIVE", ROOT.parent / "shared/data/FG_dataset_lite.tar.xz"))
QUIET = Options(partial=True, progress=False)
ADSORPTION = Options(target="adsorption", partial=True, progress=False)


def records_of(out: Path) -> dict[str, Data]:
    """Every record by its name, with the fold it lies in as ``fold``."""
    records = {}
    for fold in range(5):
        for record in Records(out / f"fold_{fold}" / "data.lmdb"):
            record.fold = fold
            records[record.sid] = record
    return records


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return example().packed(tmp_path_factory.mktemp("gamenet") / "FG_dataset_lite.tar.xz")


@pytest.fixture(scope="module")
def prepared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("gamenet") / "out"
    prepare_gamenet(archive, out, QUIET)
    return out


def test_every_system_is_a_record_under_its_published_name(prepared: Path) -> None:
    records = records_of(prepared)
    described = json.loads((prepared / "gamenet.json").read_text())
    assert len(records) == len(FAMILIES) * (1 + 2 * len(METALS)) + 1
    assert set(records) == set(described["systems"])
    assert {name: record.fold for name, record in records.items()} == {
        name: system["fold"] for name, system in described["systems"].items()
    }
    assert described["systems"]["pd-15N1-a"]["family"] == "group3N"
    sizes = Counter(record.fold for record in records.values())
    assert {f"fold_{fold}": size for fold, size in sizes.items()} == {
        name: counts["systems"] for name, counts in described["counts"].items()
    }


def test_tags_and_fixed_atoms(prepared: Path) -> None:
    records = records_of(prepared)
    for name, record in records.items():
        metal = record.atomic_numbers > 20
        assert torch.equal(record.tags == 2, ~metal), name
        assert torch.equal(record.tags == 0, record.fixed == 1), name
        assert int(record.fixed.sum()) == (0 if kind_of(name) == "gas" else 8), name
    assert set(records["1401"].tags.tolist()) == {2}
    assert set(records["pd-0000"].tags.tolist()) == {0, 1}


def test_positions_are_inside_the_cell_and_do_not_jump(prepared: Path) -> None:
    crossed = 0
    for name, record in records_of(prepared).items():
        assert torch.linalg.matrix_rank(record.cell[0]) == 3
        fractional = record.pos @ torch.linalg.inv(record.cell[0])
        assert fractional.min() > -1e-5
        assert fractional.max() < 1 + 1e-5
        distance = (record.pos_relaxed - record.pos).norm(dim=-1)
        expected = torch.where(record.fixed == 1, 0.0, 0.3)
        torch.testing.assert_close(distance, expected, atol=1e-4, rtol=0, msg=name)
        crossed += int((record.pos_relaxed @ torch.linalg.inv(record.cell[0]) < -1e-3).any())
    assert crossed > 0, "no relaxed atom lies beyond the cell: the test shows nothing"


def test_total_energies_less_a_fit_on_the_training_folds_alone(archive: Path, prepared: Path, tmp_path: Path) -> None:
    described = json.loads((prepared / "gamenet.json").read_text())
    energies = dict(example().energies)
    elements = described["element_energies"]
    records = records_of(prepared)
    labels = []
    for name, record in records.items():
        atoms = Atoms(record.atomic_numbers.int().numpy()).get_chemical_symbols()
        assert record.y_total == pytest.approx(energies[name], abs=1e-8)
        assert record.y_relaxed == pytest.approx(record.y_total - sum(elements[symbol] for symbol in atoms), abs=1e-8)
        assert record.y_init == pytest.approx(record.y_relaxed + 0.5, abs=1e-8)
        assert described["systems"][name]["y_relaxed"] == record.y_relaxed
        if record.fold in (1, 2, 3):
            labels.append(record.y_relaxed)
    assert described["train_mean"] == pytest.approx(np.mean(labels))
    assert described["train_std"] == pytest.approx(np.std(labels))

    changed = example()
    outside = {name for name, record in records.items() if record.fold in (0, 4)}
    changed.energies = [(name, energy + 100 * (name in outside)) for name, energy in changed.energies]
    again = prepare_gamenet(changed.packed(tmp_path / "changed.tar.xz"), tmp_path / "out", QUIET)
    assert again["element_energies"] == elements
    assert (again["train_mean"], again["train_std"]) == (described["train_mean"], described["train_std"])
    other = prepare_gamenet(archive, tmp_path / "other", Options(train_folds=(0, 4, 1), partial=True, progress=False))
    assert other["element_energies"] != elements


def test_exact_sums_of_atoms_leave_nothing(tmp_path: Path) -> None:
    files = example()
    by_name = {Path(path).stem: atoms.get_chemical_symbols() for path, atoms in files.structures.items()}
    files.energies = [(name, sum(ATOM_ENERGIES[symbol] for symbol in by_name[name])) for name, _ in files.energies]
    done = prepare_gamenet(files.unpacked(tmp_path / "in"), tmp_path / "out", QUIET)
    assert max(abs(system["y_relaxed"]) for system in done["systems"].values()) < 1e-6


def test_adsorption_energies_of_adsorbed_molecules_only(archive: Path, tmp_path: Path) -> None:
    done = prepare_gamenet(archive, tmp_path / "out", ADSORPTION)
    records = records_of(tmp_path / "out")
    assert done["left_out"] == {"gas": 5, "slab": 1}
    assert len(records) == 20
    # Gas molecules are the sum of their atoms, slabs 0.2 eV more.
    for name, record in records.items():
        assert record.y_relaxed == pytest.approx((-1.0 if name.endswith("a") else -0.6) - 0.2, abs=1e-6)
    assert done["element_energies"] == {}


def test_folder_and_archive_are_the_same(prepared: Path, tmp_path: Path) -> None:
    done = prepare_gamenet(example().unpacked(tmp_path / "in"), tmp_path / "out", QUIET)
    assert done == json.loads((prepared / "gamenet.json").read_text())


def test_fairchem_reads_the_folds(prepared: Path) -> None:
    dataset = LmdbDataset({"src": str(prepared / "fold_0" / "data.lmdb")})
    assert len(dataset) == len(np.load(prepared / "fold_0" / "metadata.npz")["natoms"])
    assert dataset[0].pos.shape == (dataset[0].natoms, 3)


def test_folds_are_near_equal_in_every_family() -> None:
    rows = [(f"{family}{number}", family) for family in ("a", "b") for number in range(23)]
    folds = published_folds(rows, {name for name, _ in rows})
    for family in ("a", "b"):
        sizes = Counter(fold for name, fold in folds.items() if name.startswith(family))
        assert sizes == {4: 5, 0: 5, 3: 5, 1: 4, 2: 4}
    assert folds != published_folds(rows[::-1], {name for name, _ in rows})
    # What is missing is shuffled along: the others keep their order, and only borders move.
    fewer = published_folds(rows, {name for name, _ in rows} - {"a0"})
    assert {name: fold for name, fold in fewer.items() if name[0] == "b"} == {
        name: fold for name, fold in folds.items() if name[0] == "b"
    }


def test_a_name_of_two_families_keeps_structure_and_energy_together(tmp_path: Path) -> None:
    files = example()
    for name, atoms, energy in (("1401", gas("1401"), 0.3), ("pd-1401-a", adsorbed("pd", "1401", "b"), -0.4)):
        files.add(name, "group2b", atoms, moved(atoms, 0.1), energy)
    source = files.unpacked(tmp_path / "in")
    systems = {system.name: system for system in Archive(source).systems()}
    energies = {name: [energy for other, energy in files.energies if other == name] for name in systems}
    on_metal, molecule = systems["pd-1401-a"], systems["1401"]
    assert (on_metal.family, on_metal.energy) == ("group2", pytest.approx(energies["pd-1401-a"][0]))
    assert on_metal.initial == (source / "group2/structures/pd-1401-a.poscar").read_text()
    assert (molecule.family, molecule.energy) == ("group2b", pytest.approx(energies["1401"][1]))
    assert molecule.initial == (source / "group2b/structures/1401.poscar").read_text()
    # The adsorption energy takes the molecule of the same family.
    done = prepare_gamenet(source, tmp_path / "out", ADSORPTION)
    assert done["systems"]["pd-1401-a"]["y_relaxed"] == pytest.approx(-1.2, abs=1e-6)


def remove(path: str):
    def change(files: Files) -> None:
        del files.structures[path]

    return change


def drop(table: str, name: str):
    def change(files: Files) -> None:
        setattr(files, table, [row for row in getattr(files, table) if row[0] != name])

    return change


def misplace(files: Files) -> None:
    for suffix in ("poscar", "contcar"):
        atoms = files.structures.pop(f"group3N/structures/pd-15N1-a.{suffix}")
        files.structures[f"group3S/structures/pd-15N1-a.{suffix}"] = atoms


def swap(files: Files) -> None:
    files.structures["group2/structures/1401.contcar"] = gas("1211")


def other_cell(files: Files) -> None:
    atoms = gas("1401")
    atoms.set_cell([13, 12, 12])
    files.structures["group2/structures/1401.contcar"] = atoms


def flat_cell(files: Files) -> None:
    for suffix in ("poscar", "contcar"):
        files.structures[f"group2/structures/1401.{suffix}"].set_cell([[12, 0, 0], [0, 12, 0], [12, 12, 0]])


def two_energies(files: Files) -> None:
    files.energies.append(("pd-1211-a", -3.0))


def odd_name(files: Files) -> None:
    files.groups.append(("pd-extra", "group2"))


def no_number(files: Files) -> None:
    files.energies.append(("cu-1211-a", float("nan")))


MISTAKES = {
    "no relaxed structure": (remove("group2/structures/1401.contcar"), "group2/structures/1401.contcar", "total"),
    "no energy": (drop("energies", "pd-15N1-a"), "energies.dat has no energy of pd-15N1-a", "total"),
    "no initial energy": (drop("initial_energies", "1401"), "energies_i.dat has no energy of 1401", "total"),
    "no row of groups.dat": (drop("groups", "pd-15N1-a"), "groups.dat has no row of group3N/structures", "total"),
    "wrong family": (misplace, "group3S/structures/pd-15N1-a.contcar is in group3S, but groups.dat assigns", "total"),
    "other atoms": (swap, "1401.contcar: atom 0 differs from that of group2/structures/1401.poscar", "total"),
    "other cell": (other_cell, "1401.contcar: its cell differs from that of", "total"),
    "flat cell": (flat_cell, "1401.poscar: its cell vectors span no volume", "total"),
    "two energies": (two_energies, "energies.dat has 2 different energies of pd-1211-a", "total"),
    "odd name": (odd_name, "'pd-extra' in groups.dat is not a valid name", "total"),
    "no number": (no_number, "energies.dat has 'nan' for cu-1211-a", "total"),
    "no clean slab": (drop("energies", "cu-0000"), "energies.dat has no cu-0000", "adsorption"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_line_and_no_folder(mistake: str, tmp_path: Path) -> None:
    change, message, target = MISTAKES[mistake]
    files = example()
    change(files)
    source = files.unpacked(tmp_path / "in")
    with pytest.raises(DataError) as error:
        prepare_gamenet(source, tmp_path / "out", Options(target=target, partial=True, progress=False))
    assert message in str(error.value)
    assert str(source) in str(error.value)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_sources_that_are_none(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tar.xz").write_text("no archive")
    (tmp_path / "cut.tar.xz").write_bytes(archive.read_bytes()[:-100])
    damaged = example().unpacked(tmp_path / "damaged")
    (damaged / "group2/structures/1401.poscar").write_text("C H\n1.0\n1 0\n")
    expected = {
        "absent.tar.xz": "no such file or folder; download FG_dataset_lite.tar.xz",
        "empty": "contains no groups.dat",
        "text.tar.xz": "not a tar archive",
        "cut.tar.xz": "damaged",
        "damaged": "group2/structures/1401.poscar: not a complete structure",
    }
    for name, message in expected.items():
        with pytest.raises(DataError, match=message) as error:
            prepare_gamenet(tmp_path / name, tmp_path / "out", QUIET)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "out").exists()


def test_options_that_are_none(archive: Path, tmp_path: Path) -> None:
    for options, message in {
        Options(target="totl", partial=True): "did you mean 'total'",
        Options(train_folds=(), partial=True): "training folds none",
        Options(train_folds=(1, 5), partial=True): "training folds 1, 5: give some of 0 to 4",
        Options(progress=False): "has 26 systems, but the FG set has 3,257",
    }.items():
        with pytest.raises(DataError, match=message):
            prepare_gamenet(archive, tmp_path / "out", options)
    with pytest.raises(DataError, match="exists already"):
        prepare_gamenet(archive, tmp_path.parent, QUIET)


def test_an_element_outside_the_training_folds(archive: Path, prepared: Path, tmp_path: Path) -> None:
    files = example(sites=("a",))
    sulphur = {name for name, family in files.groups if family == "group3S"}
    files.groups = [row for row in files.groups if row[0] not in sulphur - {"14S1"}]
    for path in [path for path in files.structures if "14S1-" in path]:
        del files.structures[path]
    source = files.unpacked(tmp_path / "in")
    fold = published_folds(files.groups, {name for name, _ in files.groups})["14S1"]
    others = tuple(number for number in range(5) if number != fold)
    with pytest.raises(DataError, match="14S1 contains S, which no system of the training folds contains"):
        prepare_gamenet(source, tmp_path / "out", Options(train_folds=others, partial=True, progress=False))


def test_command(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["prepare-gamenet", str(archive), str(out)]) == 2
    assert "--partial" in capsys.readouterr().err
    flags = ["--target", "adsorption", "--train-folds", "0", "1", "--partial"]
    assert main(["prepare-gamenet", str(archive), str(out), *flags]) == 0
    printed = capsys.readouterr().out
    assert "left out because they have no adsorption energy: 5 gas, 1 slab" in printed
    assert "label over folds 0, 1: mean" in printed
    assert sorted(path.name for path in out.iterdir()) == [*(f"fold_{fold}" for fold in range(5)), "gamenet.json"]


@pytest.fixture(scope="module")
def extract() -> dict[str, np.ndarray]:
    return shared_extract()


def test_genuine_structures(extract: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Amidines on palladium and gold, written in the published layout again."""
    names = extract["name"].tolist()
    total = dict(zip(names, extract["e_total"].tolist()))
    files, slabs, rows = Files(), {}, {}
    for row, (name, family) in enumerate(zip(names, extract["family"].tolist())):
        kind = kind_of(name)
        if family != "amidines" or (kind == "adsorbed" and (name[:2] not in ("pd", "au") or name[3:7] not in total)):
            continue
        initial, relaxed = structures_of(extract, row)
        files.structures[f"{family}/structures/{name}.poscar"] = initial
        files.structures[f"{family}/structures/{name}.contcar"] = relaxed
        files.groups.append((name, family))
        rows[name] = row
        if kind == "adsorbed":
            slab = total[name] - extract["e_ads"][row] - total[name[3:7]]
            assert slabs.setdefault(name[:2], slab) == pytest.approx(slab, abs=1e-6)
    values = [*((name, total[name]) for name in rows), *((f"{metal}-0000", slab) for metal, slab in slabs.items())]
    files.energies = files.initial_energies = values
    prepare_gamenet(files.packed(tmp_path / "fg.tar.xz"), tmp_path / "out", ADSORPTION)
    records = records_of(tmp_path / "out")
    assert len(records) > 40
    for name, record in records.items():
        initial, relaxed = structures_of(extract, rows[name])
        # VASP's format groups nothing anew: the order of atoms is the published one.
        assert record.atomic_numbers.tolist() == initial.numbers.tolist()
        shortest, lengths = find_mic(relaxed.positions - initial.positions, initial.cell, pbc=True)
        np.testing.assert_allclose(record.pos_relaxed - record.pos, shortest, atol=1e-4)
        assert record.y_relaxed == pytest.approx(extract["e_ads"][rows[name]], abs=1e-6)
        assert record.y_total == pytest.approx(total[name], abs=1e-6)
        assert lengths[record.fixed.numpy() == 1].max() < 1e-3


def test_the_whole_archive(extract: dict[str, np.ndarray]) -> None:
    """Every published fold, and every energy but those of names that the extract mixes."""
    if not ARCHIVE.exists():
        pytest.skip("needs ../shared/data/FG_dataset_lite.tar.xz, or GAMENET_ARCHIVE with its path")
    archive = Archive(ARCHIVE)
    systems = {system.name: system for system in archive.systems()}
    folds = published_folds(archive.rows, set(systems))
    assert len(folds) == NUM_SYSTEMS
    assert folds_digest(folds) == DIGEST
    assert sorted(Counter(folds.values()).items()) == [(0, 653), (1, 650), (2, 650), (3, 651), (4, 653)]
    names = extract["name"].tolist()
    assert [folds[name] for name in names] == extract["fold"].tolist()
    energies = [systems[name].energy for name in names]
    np.testing.assert_allclose(energies, extract["e_total"], atol=1e-7)
