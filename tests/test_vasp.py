"""Folders of VASP calculations, whole and killed, from the files that ASE's wheel brings."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.io import read, write
from vasp_outputs import MOVE, genuine, outcar, vasprun

from fairchem_hdgnn.data.structures.vasp import is_vasp_folder, read_vasp_folder, read_vasp_frames, vasp_folders
from fairchem_hdgnn.errors import DataError

OSZICAR = """       N       E                     dE             d eps       ncg     rms          rms(c)
DAV:   1     0.144321210110E+04    0.14432E+04   -0.68571E+04  5280   0.152E+03
   1 F= -.68228685E+02 E0= -.68231024E+02  d E =0.000000E+00
DAV:   1    -0.692E+02   -0.10E+00   -0.1E+00  5280   0.1E+00
   2 F= -.69228685E+02 E0= -.69231024E+02  d E =-.100000E+01
"""


def calculation(folder: Path, files: Mapping[str, str]) -> Path:
    """A folder with these files; what is called ``.gz`` is compressed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        content = text.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def start() -> str:
    """A POSCAR of VASP 5 for the genuine OUTCAR: atoms 0 and 1 fixed, the third one along x."""
    lines = genuine("POSCAR_example_1").splitlines()
    flags = ["F F F", "F F F", "F T T", *["T T T"] * 15]
    atoms = [f"{line} {flag}" for line, flag in zip(lines[7:], flags)]
    return "\n".join([*lines[:5], " Ni", *lines[5:6], "Selective dynamics", lines[6], *atoms, ""])


def message(folder: Path, read_it: object = read_vasp_folder) -> str:
    with pytest.raises(DataError) as error:
        list(read_it(folder)) if read_it is read_vasp_frames else read_it(folder)  # type: ignore[operator]
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("names", [("POSCAR", "OUTCAR"), ("poscar", "outcar"), ("POSCAR.gz", "OUTCAR.gz")])
def test_a_relaxation(tmp_path: Path, names: tuple[str, str]) -> None:
    folder = calculation(tmp_path / "run", dict(zip(names, (start(), outcar([-66.0, -67.0, -68.0])))))
    relaxation = read_vasp_folder(folder)
    assert (relaxation.energy, relaxation.initial_energy) == (-68.0, -66.0)
    assert relaxation.converged is True and relaxation.file == folder / names[1]
    moved = relaxation.relaxed.positions - relaxation.initial.positions
    np.testing.assert_allclose(moved, np.tile([2 * MOVE, 0.0, 0.0], (18, 1)), atol=1e-6)
    for atoms in (relaxation.initial, relaxation.relaxed):
        assert str(atoms.symbols) == "Ni18" and atoms.pbc.all()
        (fixed,) = [constraint for constraint in atoms.constraints if isinstance(constraint, FixAtoms)]
        assert fixed.index.tolist() == [0, 1] and len(atoms.constraints) == 2
    np.testing.assert_allclose(relaxation.forces[0], [0.030415, -0.114705, -0.460114], err_msg="of a fixed atom too")


def test_frames(tmp_path: Path) -> None:
    folder = calculation(tmp_path / "run", {"POSCAR": start(), "OUTCAR": outcar([-66.0, -67.0])})
    frames = [frame for frame, converged in read_vasp_frames(folder) if converged]
    assert [frame.get_potential_energy() for frame in frames] == [-66.0, -67.0]
    for frame in frames:
        np.testing.assert_allclose(frame.calc.results["forces"][0], [0.030415, -0.114705, -0.460114])
        assert frame.get_forces()[0].tolist() == [0.0, 0.0, 0.0]
        assert frame.calc.results["free_energy"] == -68.22868532


def test_a_static_calculation_with_a_file_of_vasp_4(tmp_path: Path) -> None:
    """The genuine pair of files: no symbols in POSCAR."""
    files = {"poscar": genuine("POSCAR_example_1"), "outcar": genuine("OUTCAR_example_1")}
    relaxation = read_vasp_folder(calculation(tmp_path / "run", files))
    assert str(relaxation.initial.symbols) == "Ni18" and relaxation.converged is True
    assert relaxation.energy == relaxation.initial_energy == -68.23102426


def test_a_comment_that_looks_like_symbols(tmp_path: Path) -> None:
    text = "CO on copper\n" + genuine("POSCAR_example_1").partition("\n")[2]
    folder = calculation(tmp_path / "run", {"POSCAR": text, "OUTCAR": genuine("OUTCAR_example_1")})
    assert str(read_vasp_folder(folder).initial.symbols) == "Ni18"


def test_symbols_of_vasp_4_from_potcar(tmp_path: Path) -> None:
    files = {"POSCAR": genuine("POSCAR_example_1"), "POTCAR": "   TITEL  = PAW_PBE Cu 22Jun2005\n", "OSZICAR": OSZICAR}
    folder = calculation(tmp_path / "run", {**files, "CONTCAR": genuine("POSCAR_example_1")})
    assert str(read_vasp_folder(folder).initial.symbols) == "Cu18"


def test_a_killed_relaxation(tmp_path: Path) -> None:
    text = outcar([-66.0, -67.0, -68.0], ended=False)
    files = {"POSCAR": start(), "CONTCAR": "", "OUTCAR": text[: text.rindex("TOTAL-FORCE") + 500]}
    relaxation = read_vasp_folder(calculation(tmp_path / "run", files))
    assert relaxation.energy == -67.0 and relaxation.converged is False
    assert len(list(read_vasp_frames(tmp_path / "run"))) == 2
    # Cut off while CONTCAR was written.
    calculation(tmp_path / "run", {"CONTCAR": start()[:300]})
    assert read_vasp_folder(tmp_path / "run").energy == -67.0


@pytest.mark.parametrize(
    ("options", "converged"),
    [
        ({}, True),
        ({"ended": False}, False),
        ({"loops": 120, "reached": "-"}, False),
        ({"reached": "----- aborting loop EDIFF was not reached (unconverged)  -----"}, False),
        ({"nsw": 0, "ended": False}, True),
        ({"nsw": -1, "ended": False}, True),
        ({"nsw": 0, "ended": False, "loops": 120, "reached": "-"}, False),
    ],
    ids=["ended", "not ended", "NELM in VASP 5", "NELM in VASP 6", "static", "NSW of -1", "static with NELM"],
)
def test_convergence_in_outcar(tmp_path: Path, options: dict, converged: bool) -> None:
    folder = calculation(tmp_path / "run", {"POSCAR": start(), "OUTCAR": outcar([-66.0, -67.0], **options)})
    assert read_vasp_folder(folder).converged is converged


def test_an_outcar_that_does_not_say_whether_it_converged(tmp_path: Path) -> None:
    text = outcar([-66.0], ended=False).replace("   NSW  ", "   ---  ")
    assert read_vasp_folder(calculation(tmp_path / "run", {"POSCAR": start(), "OUTCAR": text})).converged is None


def test_vasprun(tmp_path: Path) -> None:
    text = vasprun(3, nsw=3)
    structure = tmp_path / "vasprun.xml"
    structure.write_text(text)
    write(tmp_path / "POSCAR", read(structure, index=0), format="vasp")
    files = {"POSCAR": (tmp_path / "POSCAR").read_text()}
    for number, (content, converged) in enumerate(
        [(text, False), (vasprun(3), True), (vasprun(3)[:-300], False), (vasprun(1, nsw=0), True)]
    ):
        folder = calculation(tmp_path / str(number), {**files, "vasprun.xml.gz": content})
        relaxation = read_vasp_folder(folder)
        assert relaxation.converged is converged
        assert relaxation.energy == pytest.approx(read(structure).get_potential_energy())
        assert relaxation.initial_energy == relaxation.energy and relaxation.forces is not None
    assert len(list(read_vasp_frames(tmp_path / "1"))) == 3


def test_the_loop_of_linear_response_is_not_the_electronic_one(tmp_path: Path) -> None:
    """vasprun.xml holds NELM twice."""
    assert vasprun(1).count('"NELM"') == 2
    folder = calculation(tmp_path / "run", {"POSCAR": "", "CONTCAR": "", "vasprun.xml": vasprun(1)})
    relaxation = read_vasp_folder(folder)
    assert relaxation.converged is True and relaxation.initial_energy == relaxation.energy


def test_linear_response(tmp_path: Path) -> None:
    """Its electronic loops stand behind the energy, in the same ionic step."""
    folder = calculation(tmp_path / "run", {"CONTCAR": "", "vasprun.xml": genuine("vasprun_dfpt.xml")})
    relaxation = read_vasp_folder(folder)
    assert relaxation.converged is True and relaxation.energy == pytest.approx(-6.74587304)
    text = genuine("vasprun_dfpt.xml").replace('"NELM">   100<', '"NELM">    14<')
    assert read_vasp_folder(calculation(folder, {"vasprun.xml": text})).converged is True


def test_an_outcar_of_nothing_gives_way_to_vasprun(tmp_path: Path) -> None:
    files = {"CONTCAR": "", "OUTCAR": outcar([-1.0])[:5000], "vasprun.xml": vasprun(1)}
    assert read_vasp_folder(calculation(tmp_path / "run", files)).file.name == "vasprun.xml"


def test_oszicar_alone(tmp_path: Path) -> None:
    files = {"POSCAR": start(), "CONTCAR": start(), "OSZICAR": OSZICAR}
    relaxation = read_vasp_folder(calculation(tmp_path / "run", files))
    assert relaxation.energy == -69.231024 and relaxation.forces is None and relaxation.converged is None
    assert relaxation.initial_energy is None
    with_walk = relaxation.initial.copy()
    write(tmp_path / "run/XDATCAR", [with_walk, with_walk], format="vasp-xdatcar")
    assert read_vasp_folder(tmp_path / "run").initial_energy == -68.231024
    (tmp_path / "run/CONTCAR").write_text("")
    assert str(read_vasp_folder(tmp_path / "run").relaxed.symbols) == "Ni18"
    (tmp_path / "run/XDATCAR").unlink()
    assert "there is no CONTCAR with its structure; add it" in message(tmp_path / "run")
    assert "none of its files has a complete ionic step" in message(tmp_path / "run", read_vasp_frames)


def test_positions_left_out_of_outcar_come_from_contcar(tmp_path: Path) -> None:
    text = outcar([-66.0, -67.0]).replace(" POSITION  ", " --------  ")
    folder = calculation(tmp_path / "run", {"CONTCAR": start(), "POSCAR": start(), "OUTCAR": text})
    relaxation = read_vasp_folder(folder)
    assert relaxation.energy == -67.0 and relaxation.forces is None and relaxation.initial_energy is None
    assert "its ionic step 0 has no positions and forces" in message(folder, read_vasp_frames)


def test_a_start_that_is_not_the_first_step(tmp_path: Path) -> None:
    """POSCAR overwritten for another run: its energy is not known."""
    atoms = read(calculation(tmp_path / "run", {"POSCAR": start()}) / "POSCAR")
    atoms.positions[5] += [0.3, 0.0, 0.0]
    write(tmp_path / "run/POSCAR", atoms, format="vasp", direct=True)
    calculation(tmp_path / "run", {"OUTCAR": outcar([-66.0, -67.0])})
    assert read_vasp_folder(tmp_path / "run").initial_energy is None
    atoms.positions[5] -= [0.3, 0.0, 0.0]
    atoms.positions += atoms.cell[0]
    write(tmp_path / "run/POSCAR", atoms, format="vasp", direct=True)
    assert read_vasp_folder(tmp_path / "run").initial_energy == -66.0, "the same but for a lattice vector"


def test_files_of_different_calculations(tmp_path: Path) -> None:
    text = start().replace(" Ni\n", " Cu\n")
    folder = calculation(tmp_path / "run", {"POSCAR": text, "OUTCAR": outcar([-66.0])})
    assert "different calculations, of Cu18 and Ni18; remove the wrong ones" in message(folder)
    assert "different calculations" in message(folder, read_vasp_frames)


def test_calculations_that_hold_no_step(tmp_path: Path) -> None:
    folder = calculation(tmp_path / "run", {"POSCAR": start(), "OUTCAR": outcar([-66.0])[:5000]})
    assert "OUTCAR: ends before the first ionic step is complete; leave it out" in message(folder)
    assert "OUTCAR: ends before" in message(folder, read_vasp_frames)
    calculation(folder, {"OUTCAR": ""})
    assert "none of its files has a complete ionic step" in message(folder)
    calculation(folder, {"OUTCAR": outcar([-66.0]), "POSCAR": start()[:300]})
    assert "POSCAR: ASE cannot read it as vasp" in message(folder) and "truncated" in message(folder)
    (folder / "OUTCAR").unlink()
    assert "not a VASP calculation; it needs POSCAR or CONTCAR, and OUTCAR" in message(folder)


def test_folders(tmp_path: Path) -> None:
    pair = {"POSCAR": "", "OUTCAR": ""}
    calculation(tmp_path / "b/relax", pair)
    calculation(tmp_path / "a", {"contcar": "", "oszicar.gz": ""})
    calculation(tmp_path / "neb/00", {"POSCAR": ""})
    calculation(tmp_path / "neb/01", {"POSCAR": "", "CONTCAR": ""})
    calculation(tmp_path / ".trash/c", pair)
    calculation(tmp_path / "named", {"POSCAR.orig": "", "OUTCAR.relax1": ""})
    assert vasp_folders(tmp_path) == [tmp_path / "a", tmp_path / "b/relax"]
    assert vasp_folders(tmp_path, "**/relax") == vasp_folders(tmp_path, "*/*/OUTCAR") == [tmp_path / "b/relax"]
    assert vasp_folders(tmp_path / "a") == [tmp_path / "a"] and is_vasp_folder(tmp_path / "a")
    assert vasp_folders(tmp_path / "a/contcar") == [] and not is_vasp_folder(tmp_path / "neb/01")


def test_cells_that_change_are_both_reported(tmp_path: Path) -> None:
    folder = calculation(
        tmp_path / "run", {"POSCAR": start().replace(" 1.0000000000000000\n", " 1.01\n"), "OUTCAR": outcar([-1.0])}
    )
    relaxation = read_vasp_folder(folder)
    assert relaxation.initial.cell[0, 0] > relaxation.relaxed.cell[0, 0] and relaxation.initial_energy is None
    assert isinstance(relaxation.initial, Atoms)
