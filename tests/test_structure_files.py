"""Files of structures under the names that they really have, and files that hold nothing."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import add_adsorbate, fcc111
from ase.constraints import FixAtoms
from ase.io import write
from vasp_outputs import genuine, outcar, vasprun

from fairchem_hdgnn.data.structures.files import read_structures, structure_files
from fairchem_hdgnn.errors import ConfigError, DataError

COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def slab() -> Atoms:
    atoms = fcc111("Pd", (2, 2, 3), vacuum=8.0)
    add_adsorbate(atoms, "C", 1.3, "fcc")
    atoms.pbc = True
    atoms.info.clear()
    atoms.set_constraint(FixAtoms(range(4)))
    return atoms


def store(path: Path, text: str) -> Path:
    """Write it, compressed if the name says so."""
    path.write_bytes(COMPRESSED.get(path.suffix, bytes)(text.encode()))
    return path


def poscar(folder: Path, **options: object) -> str:
    write(folder / "written", slab(), format="vasp", **options)
    text = (folder / "written").read_text()
    (folder / "written").unlink()
    return text


def message(path: Path, format: str | None = None) -> str:
    with pytest.raises(DataError) as error:
        list(read_structures(path, format))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    "name",
    ["POSCAR", "poscar", "pd-4a12-a.contcar", "Pd111.vasp", "POSCAR.gz", "slab.VASP.bz2", "contcar.xz",
     "01_poscar_initial", "POSCAR.orig", "a@1.vasp"],
)  # fmt: skip
def test_structures_of_vasp(tmp_path: Path, name: str) -> None:
    (atoms,) = read_structures(store(tmp_path / name, poscar(tmp_path)))
    np.testing.assert_allclose(atoms.positions, slab().positions, atol=1e-9)
    assert atoms.symbols.get_chemical_formula() == "CPd12"
    assert atoms.constraints[0].index.tolist() == slab().constraints[0].index.tolist()


@pytest.mark.parametrize("name", ["OUTCAR", "outcar", "run1.outcar", "OUTCAR.gz", "outcar.bz2", "OUTCAR.xz"])
def test_ionic_steps_of_vasp(tmp_path: Path, name: str) -> None:
    frames = list(read_structures(store(tmp_path / name, outcar([-1.0, -2.0]))))
    assert [frame.get_potential_energy() for frame in frames] == [-1.0, -2.0]


@pytest.mark.parametrize("name", ["vasprun.xml", "vasprun.xml.gz", "Vasprun.xml.bz2"])
def test_xml_of_vasp(tmp_path: Path, name: str) -> None:
    assert len(list(read_structures(store(tmp_path / name, vasprun(2))))) == 2


@pytest.mark.parametrize("name", ["XDATCAR", "xdatcar", "XDATCAR.gz"])
def test_walks_of_vasp(tmp_path: Path, name: str) -> None:
    write(tmp_path / "walk", [slab(), slab()], format="vasp-xdatcar")
    assert len(list(read_structures(store(tmp_path / name, (tmp_path / "walk").read_text())))) == 2


@pytest.mark.parametrize("name", ["POSCAR.cif", "poscar_frames.extxyz", "OUTCAR.traj", "contcar.db", "a@1.xyz"])
def test_endings_of_other_formats_count_more(tmp_path: Path, name: str) -> None:
    ending = name.rpartition(".")[2]
    write(tmp_path / f"a.{ending}", slab())
    (tmp_path / f"a.{ending}").rename(tmp_path / name)
    (atoms,) = read_structures(tmp_path / name)
    assert sorted(atoms.numbers) == sorted(slab().numbers)


def test_a_given_format_wins(tmp_path: Path) -> None:
    (atoms,) = read_structures(store(tmp_path / "start.txt", poscar(tmp_path)), "vasp")
    assert len(atoms) == 13
    write(str(tmp_path / "POSCAR"), slab(), format="extxyz")
    assert len(next(read_structures(tmp_path / "POSCAR", "extxyz"))) == 13


def test_formats_that_ase_does_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^format 'vasp-outcar': ASE has no such format; did you mean 'vasp-out'\?$"):
        read_structures(tmp_path / "OUTCAR", "vasp-outcar")
    with pytest.raises(ConfigError, match="format 'png': ASE can write but not read it"):
        read_structures(tmp_path / "OUTCAR", "png")


def test_logicals_of_fortran_fix_atoms(tmp_path: Path) -> None:
    """Of ``.FALSE.`` ASE makes a free atom."""
    text = poscar(tmp_path)
    for written in (".FALSE.", "f", ".f.", "False"):
        flags = text.replace("  F  F  F", f" {written} {written} {written}").replace("   F   F   F", f" {written}" * 3)
        assert flags != text
        (atoms,) = read_structures(store(tmp_path / "POSCAR", flags))
        assert len(atoms.constraints[0].index) == 4


def test_a_comment_that_is_no_utf8(tmp_path: Path) -> None:
    lines = poscar(tmp_path).splitlines(keepends=True)
    (tmp_path / "POSCAR").write_bytes("a = 3.9 Å\n".encode("latin-1") + "".join(lines[1:]).encode())
    assert len(next(read_structures(tmp_path / "POSCAR"))) == 13


def test_symbols_beside_a_file_of_vasp_4(tmp_path: Path) -> None:
    store(tmp_path / "POSCAR.bz2", genuine("POSCAR_example_1"))
    assert "put its POTCAR or OUTCAR next to it" in message(tmp_path / "POSCAR.bz2")
    store(tmp_path / "OUTCAR", genuine("OUTCAR_example_1"))
    (atoms,) = read_structures(tmp_path / "POSCAR.bz2")
    assert str(atoms.symbols) == "Ni18"


@pytest.mark.parametrize(
    ("name", "content"),
    # The date would be part of the test's name, and of another one in each process that collects it.
    [("CONTCAR", b""), ("a.extxyz", b"\n \n"), ("OUTCAR.gz", gzip.compress(b"", mtime=0))],
)
def test_empty_files(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "is empty, perhaps because the calculation was killed" in message(tmp_path / name)


def test_truncated_files(tmp_path: Path) -> None:
    text = poscar(tmp_path)
    assert "it is truncated, damaged or in another format" in message(
        store(tmp_path / "POSCAR", text[: len(text) // 2])
    )
    assert "as vasp " in message(tmp_path / "POSCAR")
    assert "it is truncated" in message(store(tmp_path / "OUTCAR", outcar([-1.0])[:2000]))
    whole = gzip.compress(text.encode())
    (tmp_path / "b.vasp.gz").write_bytes(whole[: len(whole) // 2])
    assert "EOFError" in message(tmp_path / "b.vasp.gz")
    write(tmp_path / "a.extxyz", slab())
    text = (tmp_path / "a.extxyz").read_text()
    assert "it is truncated" in message(store(tmp_path / "a.extxyz", text[: len(text) // 2]))


def test_a_file_of_no_format(tmp_path: Path) -> None:
    assert "give --format if it contains structures" in message(store(tmp_path / "notes.txt", "nothing to see"))


def test_a_killed_run_gives_its_complete_steps(tmp_path: Path) -> None:
    text = outcar([-1.0, -2.0, -3.0])
    frames = list(read_structures(store(tmp_path / "OUTCAR", text[: text.rindex("TOTAL-FORCE")])))
    assert [frame.get_potential_energy() for frame in frames] == [-1.0, -2.0]


def test_linked_folders_are_read_once_and_hidden_ones_not(tmp_path: Path) -> None:
    for name in ("set/a.xyz", "set/deep/b.xyz", "set/.ipynb_checkpoints/c.xyz", "elsewhere/d.xyz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "set/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set/again").symlink_to(tmp_path / "set/deep")
    (tmp_path / "set/deep/loop").symlink_to(tmp_path / "set")
    found = structure_files(tmp_path / "set")
    assert [str(path.relative_to(tmp_path)) for path in found] == ["set/a.xyz", "set/deep/b.xyz", "set/linked/d.xyz"]
    assert [path.name for path in structure_files(tmp_path / "set", "*/*.xyz")] == ["b.xyz", "d.xyz"]
