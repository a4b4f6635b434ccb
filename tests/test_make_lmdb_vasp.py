"""Folders of VASP calculations as records, as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.io import read, write
from vasp_outputs import MOVE, genuine, outcar, vasprun

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.data.structures.conversion import Conversion, make_lmdb
from fairchem_hdgnn.data.structures.vasp import read_vasp_frames
from fairchem_hdgnn.errors import DataError


def calculation(folder: Path, energies: list[float], **keys: object) -> None:
    """POSCAR, OUTCAR and what else lies in such a folder."""
    folder.mkdir(parents=True)
    poscar = genuine("POSCAR_example_1").splitlines()
    # The genuine file is one of VASP 4, without the line of symbols.
    (folder / "POSCAR").write_text("\n".join([*poscar[:5], " Ni", *poscar[5:], ""]))
    (folder / "OUTCAR").write_text(outcar(energies, **keys))
    (folder / "INCAR").write_text("NSW = 100\n")
    (folder / "job.sh").write_text("#!/bin/sh\nmpirun vasp_std\n")


def test_each_folder_is_a_relaxation(tmp_path: Path) -> None:
    calculation(tmp_path / "runs/Ni111-a", [-66.0, -67.0, -68.0])
    calculation(tmp_path / "runs/deep/Ni111-b", [-66.0, -69.0])
    report = make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("is2re"), progress=False)
    first, second = Records(tmp_path / "out")
    assert [(record.sid, record.y_init, record.y_relaxed) for record in (first, second)] == [
        ("Ni111-a", -66.0, -68.0),
        ("Ni111-b", -66.0, -69.0),
    ]
    np.testing.assert_allclose((first.pos_relaxed - first.pos)[:, 0], 2 * MOVE, atol=1e-5)
    assert not report.left_out and [source.file for source in report.sources] == ["Ni111-a", "deep/Ni111-b"]


def test_the_folder_itself(tmp_path: Path) -> None:
    calculation(tmp_path / "Ni111", [-66.0, -67.0])
    report = make_lmdb(tmp_path / "Ni111", tmp_path / "out", Conversion("is2re"), progress=False)
    assert Records(tmp_path / "out")[0].sid == "Ni111" and report.statistics.num_records == 1


def test_a_relaxation_that_was_cut_off_is_left_out_by_name(tmp_path: Path) -> None:
    calculation(tmp_path / "runs/good", [-66.0, -67.0])
    calculation(tmp_path / "runs/killed", [-66.0, -67.0], ended=False)
    report = make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("is2re"), progress=False)
    assert [source.id for source in report.sources] == ["good"]
    assert [(left.file, left.reason) for left in report.left_out] == [
        ("killed", "the relaxation did not converge (VASP's output); --keep-unconverged keeps it")
    ]
    kept = Conversion("is2re", keep_unconverged=True)
    report = make_lmdb(tmp_path / "runs", tmp_path / "all", kept, progress=False)
    assert [source.id for source in report.sources] == ["good", "killed"]


def test_a_start_that_was_overwritten_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calculation(tmp_path / "Ni111", [-66.0, -67.0])
    poscar = tmp_path / "Ni111/POSCAR"
    lines = poscar.read_text().splitlines()
    lines[8] = "0.1 0.1 0.1"
    poscar.write_text("\n".join(lines))
    assert main(["make-lmdb", str(tmp_path / "Ni111"), str(tmp_path / "out"), "--task", "is2re"]) == 0
    assert "in 1 folders POSCAR is not the structure of the first ionic step, first Ni111" in capsys.readouterr().out


def test_ionic_steps_are_frames(tmp_path: Path) -> None:
    calculation(tmp_path / "runs/Ni111", [-66.0, -67.0])
    make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("s2ef"), progress=False)
    records = list(Records(tmp_path / "out"))
    assert [(record.sid, record.fid, record.energy) for record in records] == [("Ni111", 0, -66.0), ("Ni111", 1, -67.0)]
    assert all(record.forces.shape == (18, 3) for record in records)


def test_ionic_steps_whose_electrons_did_not_converge_are_left_out(tmp_path: Path) -> None:
    calculation(tmp_path / "runs/good", [-66.0, -67.0])
    cut = "------------------------ aborting loop EDIFF was not reached (unconverged)  ----"
    calculation(tmp_path / "runs/cut", [-68.0, -60.0], reached=cut)
    report = make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("s2ef"), progress=False)
    assert {source.file for source in report.sources} == {"good"}
    reason = "its electronic loop did not converge (VASP's output); --keep-unconverged keeps it"
    assert [(left.file, left.structure, left.reason) for left in report.left_out] == [
        ("cut", "0", reason),
        ("cut", "1", reason),
    ]
    kept = Conversion("s2ef", keep_unconverged=True)
    assert make_lmdb(tmp_path / "runs", tmp_path / "all", kept, progress=False).statistics.num_records == 4


def test_convergence_belongs_to_each_step(tmp_path: Path) -> None:
    calculation(tmp_path / "Ni111", [-66.0, -67.0, -68.0])
    path = tmp_path / "Ni111/OUTCAR"
    before, reached, after = path.read_text().rpartition("aborting loop because EDIFF is reached")
    before, first, between = before.rpartition("aborting loop because EDIFF is reached")
    path.write_text(f"{before}aborting loop EDIFF was not reached (unconverged){between}{reached}{after}")
    assert first and [found for _, found in read_vasp_frames(path.parent)] == [True, False, True]


def test_a_step_that_ends_at_nelm_does_not_inherit_the_convergence_of_the_one_before(tmp_path: Path) -> None:
    """VASP 5 says nothing about an electronic loop that NELM ends."""
    calculation(tmp_path / "Ni111", [-66.0, -67.0, -68.0])
    text = outcar([-66.0, -67.0, -68.0], loops=120)
    before, reached, after = text.rpartition("aborting loop because EDIFF is reached")
    before, first, between = before.rpartition(reached)
    (tmp_path / "Ni111/OUTCAR").write_text(f"{before}{between}{reached}{after}")
    assert first and [found for _, found in read_vasp_frames(tmp_path / "Ni111")] == [True, False, True]


def test_convergence_of_the_steps_of_a_vasprun(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    text = vasprun(2)
    scf = text[: text.index("</calculation>")].count("<scstep>")
    for limit, converged in ((scf + 1, True), (scf, False)):
        (tmp_path / "run/vasprun.xml").write_text(text.replace('name="NELM">    60<', f'name="NELM">{limit:6}<'))
        poscar = tmp_path / "run/POSCAR"
        write(poscar, read(tmp_path / "run/vasprun.xml"))
        assert [found for _, found in read_vasp_frames(tmp_path / "run")] == [converged] * 2


def test_a_folder_without_a_position_is_named(tmp_path: Path) -> None:
    calculation(tmp_path / "runs/good", [-66.0, -67.0])
    calculation(tmp_path / "runs/empty", [-66.0])
    (tmp_path / "runs/empty/OUTCAR").write_text("")
    with pytest.raises(DataError, match=r"empty.*--on-error skip"):
        make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("is2re"), progress=False)
    report = make_lmdb(tmp_path / "runs", tmp_path / "out", Conversion("is2re", on_error="skip"), progress=False)
    assert [left.file for left in report.left_out] == ["empty"]
