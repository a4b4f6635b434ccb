"""Pairs of files, tables of energies and references, ids, and structures that cannot be used."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import write
from oxygen_slabs import labelled, slab

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, Report, make_lmdb
from fairchem_hdgnn.errors import DataError

PAIRS = "*/POSCAR,*/CONTCAR"


def relaxed(atoms: Atoms, by: float = 0.1) -> Atoms:
    """The same with its adsorbate moved."""
    moved = atoms.copy()
    moved.positions[-1] += by
    return moved


def write_pairs(root: Path, metals: tuple[str, ...] = ("Cu", "Pt")) -> None:
    """``root/Cu-O/POSCAR``, ``root/Cu-O/CONTCAR`` and so on; VASP's files know no tags."""
    for metal in metals:
        folder = root / f"{metal}-O"
        folder.mkdir(parents=True)
        write(folder / "POSCAR", slab(metal), format="vasp", direct=True)
        write(folder / "CONTCAR", relaxed(slab(metal)), format="vasp", direct=True)


def table(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def convert(source: Path, **keys: Any) -> tuple[list[Any], Report]:
    """Records and report of an IS2RE conversion."""
    out = source.with_name("out")
    report = make_lmdb(source, out, Conversion("is2re", **keys), progress=False)
    return list(Records(out)), report


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


# === pairs =======================================================================================


def test_pairs_by_folder(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own")
    records, report = convert(tmp_path / "own", pairs=PAIRS, energies=table(tmp_path / "e", "Cu-O -1.5\nPt-O -2\n"))
    assert [(record.sid, record.y_relaxed) for record in records] == [("Cu-O", -1.5), ("Pt-O", -2.0)]
    np.testing.assert_allclose((records[0].pos_relaxed - records[0].pos)[-1], 0.1, atol=1e-5)
    assert report.read == 2 and not report.left_out


@pytest.mark.parametrize(
    ("pairs", "files", "ids"),
    [
        ("start/*.vasp,end/*.vasp", ["start/a.vasp end/a.vasp", "start/b.vasp end/b.vasp"], ["a", "b"]),
        ("*/*.poscar,*/*.contcar", ["x/a.poscar x/a.contcar", "x/b.poscar x/b.contcar"], ["a", "b"]),
        ("**/*.poscar,**/*.contcar", ["a.poscar a.contcar", "x/b.poscar x/b.contcar"], ["a", "b"]),
        ("*/*.poscar,*/*.contcar", ["x/a.poscar x/a.contcar", "y/a.poscar y/a.contcar"], ["x_a", "y_a"]),
        ("one-?.poscar,two-?.poscar", ["one-3.poscar two-3.poscar"], ["one-3"]),
        ("initial.poscar,final.poscar", ["initial.poscar final.poscar"], ["initial"]),
    ],
)
def test_pairs_by_what_wildcards_stand_for(tmp_path: Path, pairs: str, files: list[str], ids: list[str]) -> None:
    for initial, final in map(str.split, files):
        for file, atoms in ((initial, slab()), (final, relaxed(slab()))):
            (tmp_path / "own" / file).parent.mkdir(parents=True, exist_ok=True)
            write(tmp_path / "own" / file, atoms, format="vasp")
    records, _ = convert(tmp_path / "own", pairs=pairs, labelled=False)
    assert [record.sid for record in records] == ids


def test_pairs_of_files_with_many_structures(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    starts = [slab("Cu"), slab("Pt")]
    write(root / "start.extxyz", starts)
    write(
        root / "end.extxyz", [labelled(relaxed(atoms), energy, force=0.01) for atoms, energy in zip(starts, (-1, -2))]
    )
    records, _ = convert(root, pairs="start.extxyz,end.extxyz")
    assert [(record.sid, record.y_relaxed) for record in records] == [("start@0", -1.0), ("start@1", -2.0)]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("*/POSCAR", "write two patterns separated by a comma"),
        ("*/POSCAR,CONTCAR", "both patterns need the same wildcards"),
        ("*/POSCAR,*/POSCAR", "both patterns match the same files"),
        ("*/POSCAR,*/relaxed", r"no file there matches '\*/relaxed' of --pairs"),
        ("../*/POSCAR,../*/CONTCAR", "write it relative to"),
    ],
)
def test_patterns_that_are_no_pairs(tmp_path: Path, pairs: str, message: str) -> None:
    write_pairs(tmp_path / "own")
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "own", pairs=pairs, labelled=False)


def test_half_a_pair_is_named(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own")
    (tmp_path / "own/Pt-O/CONTCAR").unlink()
    with pytest.raises(
        DataError, match=r"Pt-O/POSCAR: has no partner that matches --pairs; --on-error skip leaves out"
    ):
        convert(tmp_path / "own", pairs=PAIRS, labelled=False)
    records, report = convert(tmp_path / "own", pairs=PAIRS, labelled=False, on_error="skip")
    assert [record.sid for record in records] == ["Cu-O"]
    assert rows(tmp_path / "out/left_out.csv") == [
        {"file": "Pt-O/POSCAR", "structure": "", "reason": "has no partner that matches --pairs"}
    ]
    assert report.left_out[0].file == "Pt-O/POSCAR"


def test_a_relaxed_structure_is_not_taken_for_an_input(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own")
    with pytest.raises(DataError, match=r"CONTCAR: is next to POSCAR; pair them, for example with --pairs"):
        convert(tmp_path / "own", labelled=False)


def test_structures_that_are_no_pair(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own")
    write(tmp_path / "own/Cu-O/CONTCAR", slab("Ag"), format="vasp")
    with pytest.raises(
        DataError, match="atoms of its initial and relaxed structure differ, perhaps in order only; pair"
    ):
        convert(tmp_path / "own", pairs=PAIRS, labelled=False)


@pytest.mark.parametrize("name", ["start-Cu", "Cu", "end-Cu.poscar"])
def test_pairs_go_by_the_names_of_both_files(tmp_path: Path, name: str) -> None:
    (tmp_path / "own").mkdir()
    for file, atoms in (("start-Cu.poscar", slab()), ("end-Cu.poscar", relaxed(slab()))):
        write(tmp_path / "own" / file, atoms, format="vasp")
    energies = table(tmp_path / "energies", f"{name} -1\n")
    records, _ = convert(tmp_path / "own", pairs="start-*.poscar,end-*.poscar", energies=energies)
    assert [(record.sid, record.y_relaxed) for record in records] == [("start-Cu", -1.0)]


# === tables of energies ==========================================================================


@pytest.mark.parametrize(
    "text",
    [
        "Cu-O -1.5\nPt-O -2.5\n",
        "# from the paper\n\nname energy\nCu-O  -1.5\nPt-O  -2.5\n",
        "Cu-O,-1.5\nPt-O,-2.5\n",
        "\ufeffsystem;E\nCu-O;-1.5\nPt-O;-2.5\n",
        "Cu-O/CONTCAR\t-1.5\nPt-O/CONTCAR\t-2.5\nAu-O/CONTCAR\t0\n",
        "name, e_total, e_ads\n./own/Cu-O/POSCAR, -99, -1.5\n./own/Pt-O/POSCAR, nan, -2.5\n",
    ],
    ids=["blanks", "header and comments", "commas", "semicolons, byte-order mark", "tabs, file names", "columns"],
)
def test_energies_by_name(tmp_path: Path, text: str) -> None:
    write_pairs(tmp_path / "own")
    key = "E_ADS" if "e_ads" in text else None
    records, _ = convert(tmp_path / "own", pairs=PAIRS, energies=table(tmp_path / "energies", text), energy_key=key)
    assert [record.y_relaxed for record in records] == [-1.5, -2.5]


def test_names_that_look_like_numbers_stay_names(tmp_path: Path) -> None:
    for name in ("1e2", "0100", "100"):
        (tmp_path / "own" / name).mkdir(parents=True)
        for file in ("POSCAR", "CONTCAR"):
            write(tmp_path / "own" / name / file, slab(), format="vasp")
    energies = table(tmp_path / "energies", "1e2 -1\n0100 -2\n100 -3\n")
    records, _ = convert(tmp_path / "own", pairs=PAIRS, energies=energies)
    assert {record.sid: record.y_relaxed for record in records} == {"1e2": -1.0, "0100": -2.0, "100": -3.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cu-O -1.5\n", "energies has no row 'Pt-O'; did you mean 'Cu-O'"),
        ("Cu-O;-1,5\nPt-O;-2\n", r"line 1 has '-1,5' for Cu-O, not an energy in eV \(decimal point\)"),
        ("Cu-O nan\nPt-O -2\n", "line 1 has 'nan' for Cu-O, not an energy"),
        ("Cu-O -1_5\nPt-O -2\n", "line 1 has '-1_5' for Cu-O, not an energy"),
        ("Pt-O -2\nCu-O -1_5\n", "line 2 has '-1_5' for Cu-O, not an energy"),
        (
            "Cu-O -1\nCu-O -2\nPt-O -3\n",
            "lines 1 and 2 both match .*Cu-O/POSCAR, with different values; add its folder",
        ),
        ("name,a,b\nCu-O,-1,-2\n", r"has several columns of numbers \(a, b\); choose one with --energy-key"),
        ("Cu-O,-1,-2\n", "has 2 columns of numbers and no header; write one"),
        ("Cu-O\nPt-O\n", "line 1 has no number"),
        ("", "has no rows"),
    ],
)
def test_faults_of_the_table_of_energies(tmp_path: Path, text: str, message: str) -> None:
    write_pairs(tmp_path / "own")
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "own", pairs=PAIRS, energies=table(tmp_path / "energies", text))
    assert not (tmp_path / "out").exists()


def test_a_column_that_is_not_there(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own")
    energies = table(tmp_path / "energies", "name,total\nCu-O,-1\n")
    with pytest.raises(DataError, match="has no column 'e_ads'; its columns are total"):
        convert(tmp_path / "own", pairs=PAIRS, energies=energies, energy_key="e_ads")


def test_one_row_is_not_given_to_two_structures(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_pairs(tmp_path / "own" / folder, ("Cu",))
    pairs = "**/POSCAR,**/CONTCAR"
    with pytest.raises(
        DataError, match=r"line 1 \(Cu-O\) matches .*a/Cu-O/POSCAR and .*b/Cu-O/POSCAR; add their folders"
    ):
        convert(tmp_path / "own", pairs=pairs, energies=table(tmp_path / "energies", "Cu-O -1\n"))
    energies = table(tmp_path / "energies", "a/Cu-O -1\nb/Cu-O -2\n")
    records, _ = convert(tmp_path / "own", pairs=pairs, energies=energies)
    assert {record.sid: record.y_relaxed for record in records} == {"a_Cu-O": -1.0, "b_Cu-O": -2.0}


def test_energies_of_a_table_are_not_mixed_with_initial_energies_of_files(tmp_path: Path) -> None:
    """What a table's energies are relative to is not known."""
    start, end = labelled(slab("Cu"), -58.0), labelled(relaxed(slab("Cu")), -60.0, force=0.01)
    write(tmp_path / "a.traj", [start, end])
    records, _ = convert(tmp_path / "a.traj", relaxations=True, energies=table(tmp_path / "energies", "a -1.5\n"))
    assert records[0].y_relaxed == -1.5 and "y_init" not in records[0]


def test_given_ids_are_names_too(tmp_path: Path) -> None:
    structures = [slab("Cu"), slab("Pt")]
    for number, atoms in enumerate(structures):
        atoms.info["sid"] = 40 + number
    write(tmp_path / "a.extxyz", structures)
    energies = table(tmp_path / "energies", "41,-2\n40,-1\n")
    records, _ = convert(tmp_path / "a.extxyz", energies=energies)
    assert [(record.sid, record.y_relaxed) for record in records] == [(40, -1.0), (41, -2.0)]


# === references ==================================================================================


@pytest.mark.parametrize(
    ("energies", "slabs", "gas"),
    [
        ("Cu-O -60\nPt-O -80", "Cu12 -50\nPt12 -71", "O -7"),
        ("Cu-O -60\nPt-O -80", "Cu-* -50\nPt-* -71", "*-O -7"),
        ("name,e,slab,gas\nCu-O,-60,one,O2/2\nPt-O,-80,two,O2/2", "one -50\ntwo -71\nthree 0", "O2/2 -7\nO -1"),
    ],
    ids=["formulas", "names with wildcards", "columns"],
)
def test_references_are_subtracted_and_written_down(tmp_path: Path, energies: str, slabs: str, gas: str) -> None:
    write_pairs(tmp_path / "own")
    records, report = convert(
        tmp_path / "own",
        pairs=PAIRS,
        energies=table(tmp_path / "energies", energies),
        reference_slabs=table(tmp_path / "slabs", slabs),
        reference_gas=table(tmp_path / "gas", gas),
    )
    assert [record.y_relaxed for record in records] == pytest.approx([-3.0, -2.0])
    first = rows(tmp_path / "out/sources.csv")[0]["label"]
    assert first.startswith("-60.000000 - slab ") and first.endswith("(-7.000000) = -3.000000")
    assert report.sources[0].label == first


def test_gas_references_by_element_are_summed(tmp_path: Path) -> None:
    atoms = slab("Cu")
    atoms.set_tags([1] * 12 + [2])
    hydroxide = atoms + Atoms("H", [atoms.positions[-1] + [0, 0, 0.97]], tags=[2])
    write(tmp_path / "a.extxyz", labelled(hydroxide, -10.0))
    records, report = convert(tmp_path / "a.extxyz", reference_gas=table(tmp_path / "gas", "H -3\nO -5\n"))
    assert records[0].y_relaxed == pytest.approx(-2.0)
    assert "gas O (-5.000000) - gas H (-3.000000)" in report.sources[0].label


def test_gas_references_by_element_count_each_atom(tmp_path: Path) -> None:
    """Of OH2, twice that of H."""
    atoms = slab("Cu")
    atoms.set_tags([1] * 12 + [2])
    hydrogens = Atoms("H2", atoms.positions[-1] + [[0.76, 0, 0.59], [-0.76, 0, 0.59]], tags=[2, 2])
    write(tmp_path / "a.extxyz", labelled(atoms + hydrogens, -10.0))
    records, report = convert(tmp_path / "a.extxyz", reference_gas=table(tmp_path / "gas", "H -3\nO -5\n"))
    assert records[0].y_relaxed == pytest.approx(1.0)
    assert "gas O (-5.000000) - gas 2 H (-6.000000) = 1.000000" in report.sources[0].label


def test_references_are_subtracted_from_initial_energies_too(tmp_path: Path) -> None:
    start, end = labelled(slab("Cu"), -58.0), labelled(relaxed(slab("Cu")), -60.0, force=0.01)
    write(tmp_path / "a.traj", [start, end])
    slabs, gas = table(tmp_path / "slabs", "Cu12 -50\n"), table(tmp_path / "gas", "O -7\n")
    records, _ = convert(tmp_path / "a.traj", relaxations=True, reference_slabs=slabs, reference_gas=gas)
    assert (records[0].y_relaxed, records[0].y_init) == pytest.approx((-3.0, -1.0))


@pytest.mark.parametrize(
    ("slabs", "message"),
    [
        ("Cu12 -50", r"slabs has no row for the slab Pt12; add Pt12, a name with wildcards, or a column 'slab'"),
        ("Cu-* -50\n*-O -60", r"slabs: Cu-\* and \*-O both match; write the row's name in a column 'slab'"),
        ("Cu12 -50\nCu12 -51", "line 2 gives Cu12 a second energy"),
        ("Cu12 low", "line 1 has no number|has no rows|line 1 has no energy"),
    ],
)
def test_faults_of_references(tmp_path: Path, slabs: str, message: str) -> None:
    write_pairs(tmp_path / "own")
    with pytest.raises(DataError, match=message):
        convert(
            tmp_path / "own",
            pairs=PAIRS,
            energies=table(tmp_path / "energies", "Cu-O -60\nPt-O -80\n"),
            reference_slabs=table(tmp_path / "slabs", slabs),
        )


def test_a_reference_that_is_named_but_missing(tmp_path: Path) -> None:
    write_pairs(tmp_path / "own", ("Cu",))
    with pytest.raises(DataError, match="slabs has no row 'Cu1l1'; did you mean 'Cu111'"):
        convert(
            tmp_path / "own",
            pairs=PAIRS,
            energies=table(tmp_path / "energies", "name,e,slab\nCu-O,-60,Cu1l1\n"),
            reference_slabs=table(tmp_path / "slabs", "Cu111 -50\n"),
        )


# === kinds, tags, convergence ====================================================================


def mixed(root: Path) -> None:
    """A slab with O, a clean slab and a molecule in a box."""
    root.mkdir()
    box = molecule("CH3OH", cell=[12, 12, 12], pbc=True)
    for name, atoms in (("Cu-O", slab()), ("Cu", slab()[:-1]), ("CH3OH", box)):
        atoms.set_tags(0)
        write(root / f"{name}.traj", labelled(atoms))


def test_kinds_are_told_apart(tmp_path: Path) -> None:
    mixed(tmp_path / "own")
    records, report = convert(tmp_path / "own")
    assert {source.id: source.kind for source in report.sources} == {"CH3OH": "gas", "Cu": "slab", "Cu-O": "adsorbed"}
    assert {record.sid: sorted(set(record.tags.tolist())) for record in records} == {
        "CH3OH": [2], "Cu": [0, 1], "Cu-O": [0, 1, 2]
    }  # fmt: skip


def test_kinds_can_be_chosen(tmp_path: Path) -> None:
    mixed(tmp_path / "own")
    records, report = convert(tmp_path / "own", kinds=("adsorbed",))
    assert [record.sid for record in records] == ["Cu-O"]
    assert [(left.file, left.reason) for left in report.left_out] == [
        ("CH3OH.traj", "its kind is gas, not adsorbed"),
        ("Cu.traj", "its kind is slab, not adsorbed"),
    ]


def test_what_has_no_adsorption_energy_is_left_out_by_name(tmp_path: Path) -> None:
    mixed(tmp_path / "own")
    gas = table(tmp_path / "gas", "O -1\n")
    records, report = convert(tmp_path / "own", reference_gas=gas)
    assert [record.sid for record in records] == ["Cu-O"]
    assert report.left_out[0].reason == "its kind is gas, which has no adsorption energy"


def test_relaxations_that_did_not_converge_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    for name, force in (("good", 0.001), ("bad", 1.0)):
        write(root / f"{name}.traj", [labelled(slab()), labelled(relaxed(slab()), force=force)])
    records, report = convert(root, relaxations=True)
    assert [record.sid for record in records] == ["good"]
    assert "the relaxation did not converge (final force on a free atom" in report.left_out[0].reason
    (tmp_path / "out").rename(tmp_path / "before")
    records, _ = convert(root, relaxations=True, keep_unconverged=True)
    assert [record.sid for record in records] == ["bad", "good"]


@pytest.mark.parametrize(
    "text",
    ["Cu-O 10-12\n", "name,adsorbate,doubts\nCu-O,10 11-12,none known\n", "name adsorbate\nCu-O/CONTCAR 10 11 12\n"],
)
def test_tags_of_a_table(tmp_path: Path, text: str) -> None:
    write_pairs(tmp_path / "own")
    tags = table(tmp_path / "tags", text)
    records, report = convert(tmp_path / "own", pairs=PAIRS, labelled=False, tags=tags)
    given, derived = ((record.tags == 2).nonzero().flatten().tolist() for record in records)
    assert given == [10, 11, 12] and derived == [12]
    assert not report.unused_tags


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Cu-O 10-13\n", "has atoms 10-13, but .* has 13, counted from 0"),
        ("Cu-O 12-10\n", "has atoms 12-10"),
        ("name,adsorbate\nCu-O,last\n", "has 'last'; write the adsorbate's atoms, counted from 0"),
        ("Ag-O 12\n", r"no row matches a structure; the first: line 1 \(Ag-O\)"),
    ],
)
def test_faults_of_the_table_of_tags(tmp_path: Path, text: str, message: str) -> None:
    write_pairs(tmp_path / "own")
    with pytest.raises(DataError, match=message):
        convert(tmp_path / "own", pairs=PAIRS, labelled=False, tags=table(tmp_path / "tags", text))


def test_doubtful_tags_come_back_as_a_table(tmp_path: Path) -> None:
    """A metal atom above a surface may be an adatom or the adsorbate."""
    atoms = slab("Cu")
    atoms.set_tags(0)
    atoms.symbols[-1] = "K"
    atoms.positions[-1, 2] += 1.2
    write(tmp_path / "a.traj", labelled(atoms))
    _, report = convert(tmp_path / "a.traj")
    check = tmp_path / "out/tags_to_check.csv"
    assert rows(check)[0]["adsorbate"] == "none" and report.to_check[0].doubts
    corrected = table(tmp_path / "tags.csv", check.read_text().replace("none", "12"))
    (tmp_path / "out").rename(tmp_path / "before")
    records, report = convert(tmp_path / "a.traj", tags=corrected)
    assert (records[0].tags == 2).nonzero().flatten().tolist() == [12] and not report.to_check


# === errors, ids =================================================================================


def test_one_bad_structure_does_not_stop_the_others(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    bad = labelled(slab())
    bad.positions[0, 0] = np.nan
    write(root / "a.extxyz", [labelled(slab()), bad, slab(), labelled(slab("Pt"))])
    write(root / "b.traj", labelled(slab("Ag")))
    (root / "c.extxyz").write_text("13\nno structure\n")
    with pytest.raises(DataError, match=r"a\.extxyz, structure 1: positions or cell are not finite; --on-error skip"):
        convert(root)
    records, report = convert(root, on_error="skip")
    assert [record.sid for record in records] == ["a@0", "a@3", "b"]
    left = [(left.file, left.structure) for left in report.left_out]
    assert left == [("a.extxyz", "1"), ("a.extxyz", "2"), ("c.extxyz", "")]
    assert [row["file"] for row in rows(tmp_path / "out/left_out.csv")] == ["a.extxyz", "a.extxyz", "c.extxyz"]


def test_a_file_damaged_after_its_first_structure_is_not_taken_for_one_without_structures(tmp_path: Path) -> None:
    root = tmp_path / "own"
    root.mkdir()
    write(root / "a.extxyz", [labelled(slab()), labelled(slab("Pt"))])
    text = (root / "a.extxyz").read_text()
    last = text.rstrip().splitlines()[-1]
    (root / "a.extxyz").write_text(text.replace(last, last.replace(".", "?")))
    write(root / "b.traj", labelled(slab("Ag")))
    with pytest.raises(DataError, match=r"a\.extxyz: ASE cannot read it after structure 0 .*--on-error skip"):
        convert(root)
    records, report = convert(root, on_error="skip")
    assert [record.sid for record in records] == ["a@0", "b"]
    assert [left.file for left in report.left_out] == ["a.extxyz"]


def test_ids_lead_back_to_files(tmp_path: Path) -> None:
    root = tmp_path / "own"
    for folder, metal in (("a", "Cu"), ("b", "Pt")):
        (root / folder).mkdir(parents=True)
        write(root / folder / "slab.traj", labelled(slab(metal)))
    write(root / "many.extxyz", [labelled(slab("Ag")), labelled(slab("Au"))])
    named = labelled(slab("Pd"))
    named.info["sid"] = 3
    write(root / "named.extxyz", named)
    records, _ = convert(root)
    assert [record.sid for record in records] == ["a_slab", "b_slab", "many@0", "many@1", "3"]
    listed = rows(tmp_path / "out/sources.csv")
    assert [(row["id"], row["file"], row["structure"]) for row in listed] == [
        ("a_slab", "a/slab.traj", "0"),
        ("b_slab", "b/slab.traj", "0"),
        ("many@0", "many.extxyz", "0"),
        ("many@1", "many.extxyz", "1"),
        ("3", "named.extxyz", "0"),
    ]
    assert {row["tags"] for row in listed} == {"from ASE's layer numbers"}


def test_given_and_derived_ids_do_not_collide(tmp_path: Path) -> None:
    given = labelled(slab())
    given.info["sid"] = 1
    write(tmp_path / "a.extxyz", [given, labelled(slab()), labelled(slab())])
    records, _ = convert(tmp_path / "a.extxyz")
    assert [record.sid for record in records] == ["1", "a@1", "a@2"]


# === command =====================================================================================


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path / "own")
    (tmp_path / "own/Pt-O/CONTCAR").unlink()
    command = ["make-lmdb", str(tmp_path / "own"), str(tmp_path / "out"), "--task", "is2re", "--pairs", PAIRS]
    command += ["--energies", str(table(tmp_path / "energies", "Cu-O -60\n")), "--on-error", "skip"]
    command += ["--reference-slabs", str(table(tmp_path / "slabs", "Cu12 -50\n"))]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "1 IS2RE records" in printed and "pairs read      1" in printed
    assert "left out        1, first: Pt-O/POSCAR: has no partner that matches --pairs" in printed
    assert "kinds           adsorbed (1 systems)" in printed
    assert "label           Cu-O: -60.000000 - slab Cu12 (-50.000000) = -10.000000 eV; all in sources.csv" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task", "s2ef", "--pairs", PAIRS], "--pairs needs --task is2re"),
        (["--task", "s2ef", "--energies", "e"], "--energies needs --task is2re"),
        (["--task", "is2re", "--forces-key", "f"], "--forces-key needs --task s2ef"),
        (["--task", "is2re", "--pairs", PAIRS, "--relaxations"], "--pairs already selects the files"),
        (["--task", "is2re", "--energies", "nowhere"], "nowhere: cannot be read (No such file or directory)"),
        (["--task", "is2re", "--format", "vaps"], "did you mean 'vasp'?"),
    ],
)
def test_flags_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    write_pairs(tmp_path / "own")
    assert main(["make-lmdb", str(tmp_path / "own/Cu-O/POSCAR"), str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err


def test_forces_of_another_name(tmp_path: Path) -> None:
    atoms = slab()
    atoms.info["energy_dft"] = -3.0
    atoms.set_array("forces_dft", np.full((len(atoms), 3), 0.5))
    write(tmp_path / "a.extxyz", atoms)
    with pytest.raises(DataError, match=r"no forces, which S2EF needs \(eV/Å; its arrays: .*forces_dft.*--forces-key"):
        make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", Conversion("s2ef", energy_key="energy_dft"), progress=False)
    conversion = Conversion("s2ef", energy_key="energy_dft", forces_key="forces_dft")
    make_lmdb(tmp_path / "a.extxyz", tmp_path / "out", conversion, progress=False)
    record = Records(tmp_path / "out")[0]
    assert (record.sid, record.fid, record.energy) == ("a", 0, -3.0) and (record.forces == 0.5).all()
