"""Frames of S2EF as published: pairs ``N.extxyz.xz`` and ``N.txt.xz`` in a tar archive, as OC20 records.

Line i of the text belongs to frame i: ``random123,frame4,-56.7``, which are system, frame of its relaxation, and
reference energy (clean slab and molecule), eV. OC20's label is the frame's energy minus that one. Forces are those of
the calculation, also on atoms that the column ``move_mask`` keeps where they are.

Nothing is unpacked: the files are read inside the archive, and one frame is in memory at a time.
"""

from __future__ import annotations

import io
import itertools
import lzma
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from ase.io.extxyz import read_xyz
from torch_geometric.data import Data

from fairchem_hdgnn.data.records import atoms_to_record, inside_cell
from fairchem_hdgnn.errors import DataError

FRAMES, REFERENCES = ".extxyz.xz", ".txt.xz"

TAGS = {0, 1, 2}

_REFERENCE = re.compile(r"random(\d+),frame(\d+),(\S+)")


@dataclass(frozen=True)
class Pair:
    """A file of frames and the file of their references, by first byte in the archive and length.

    Attributes:
        name: common part of the two file names.
        frames: of the frames.
        references: of the references.
    """

    name: str
    frames: tuple[int, int]
    references: tuple[int, int]


def pairs(archive: Path) -> list[Pair]:
    """All pairs of files in an archive, in the order of their numbers.

    Raises:
        DataError: the archive is damaged, contains no frames, or lacks one file of a pair.
    """
    found: dict[str, dict[str, tuple[int, int]]] = {FRAMES: {}, REFERENCES: {}}
    try:
        with tarfile.open(archive, "r:") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                for ending, places in found.items():
                    if member.isfile() and name.endswith(ending):
                        places[name.removesuffix(ending)] = (member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DataError(f"{archive}: not a tar archive, or damaged ({error}); download it again") from error
    if lonely := sorted(found[FRAMES].keys() ^ found[REFERENCES].keys()):
        raise DataError(f"{archive}: {lonely[0]} lacks {FRAMES} or {REFERENCES}; download it again")
    if not found[FRAMES]:
        raise DataError(f"{archive}: contains no *{FRAMES}, so it is not an archive of frames; download it again")
    names = sorted(found[FRAMES], key=lambda name: (len(name), name))
    return [Pair(name, found[FRAMES][name], found[REFERENCES][name]) for name in names]


def records(archive: Path, pair: Pair) -> Iterator[Data]:
    """The records of a pair: ``energy`` eV, ``forces`` eV/Å, positions Å inside the cell, ``sid`` and ``fid`` integers.

    Raises:
        DataError: a file or a frame is damaged; names it.
    """
    references = _lines(archive, pair.references, f"{archive}: {pair.name}{REFERENCES}")
    place = f"{archive}: {pair.name}{FRAMES}"
    frames = _frames(_lines(archive, pair.frames, place))
    for number, (frame, reference) in enumerate(itertools.zip_longest(frames, references), start=1):
        if frame is None or reference is None:
            raise DataError(
                f"{place}: differs from {pair.name}{REFERENCES} in the number of frames; download the archive again"
            )
        yield _record(frame, reference, f"{place}: frame {number}")


def _lines(archive: Path, extent: tuple[int, int], place: str) -> Iterator[str]:
    """Lines of a compressed file in the archive."""
    offset, length = extent
    with archive.open("rb") as file:
        file.seek(offset)
        packed = io.BytesIO(file.read(length))
    try:
        with lzma.open(packed, "rt", encoding="utf-8") as lines:
            yield from map(str, lines)
    except (EOFError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise DataError(f"{place}: damaged ({error}); download the archive again") from error


def _frames(lines: Iterator[str]) -> Iterator[str]:
    """Text of each frame: the number of atoms, a line about the frame, and one line an atom."""
    for first in lines:
        number = int(first) if first.strip().isdigit() else 0
        yield first + "".join(itertools.islice(lines, number + 1))


def _record(frame: str, reference: str, place: str) -> Data:
    match = _REFERENCE.fullmatch(reference.strip())
    try:
        [atoms] = read_xyz(io.StringIO(frame), index=slice(None))
        results = atoms.calc.results
        energy, forces = float(results["energy"]), np.asarray(results["forces"], dtype=np.float64)
        label = energy - float(match[3]) if match else np.nan
        tags = np.asarray(atoms.arrays["tags"], dtype=np.int64)
    except Exception as error:  # ASE's reader can raise anything on malformed lines
        raise DataError(f"{place}: cannot be read ({_one_line(error)}); download the archive again") from error
    if match is None or not np.isfinite(label):
        raise DataError(
            f"{place}: {reference.strip()!r} is not a system, frame and reference energy; download the archive again"
        )
    if forces.shape != atoms.positions.shape or not np.isfinite([forces, atoms.positions]).all():
        raise DataError(
            f"{place}: its forces or positions are not three finite numbers per atom; download the archive again"
        )
    if not TAGS.issuperset(tags.tolist()):
        raise DataError(f"{place}: its tags are not 0, 1 and 2; download the archive again")
    record = atoms_to_record(atoms, int(match[1]))
    record.pos = torch.tensor(inside_cell(atoms), dtype=torch.float32)
    record.pbc = torch.from_numpy(atoms.pbc.copy())[None]
    record.fid = int(match[2])
    record.energy = label
    record.forces = torch.tensor(forces, dtype=torch.float32)
    return record


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
