"""Small archives in the layout in which OC20 is published."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from ase.data import chemical_symbols
from small_runs import write_lmdb

from fairchem_hdgnn.data.oc20.archives import ARCHIVES

PAIRS = 3
FRAMES_OF_A_PAIR = 4


@dataclass(frozen=True)
class Frame:
    """One frame, in eV and Å."""

    system: int
    number: int
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    free: np.ndarray
    tags: np.ndarray
    forces: np.ndarray
    energy: float
    reference: float

    @property
    def text(self) -> str:
        lattice = " ".join(map(str, self.cell.ravel()))
        lines = [
            str(len(self.numbers)),
            f'Lattice="{lattice}" Properties=species:S:1:pos:R:3:move_mask:L:1:tags:I:1:forces:R:3 '
            f'energy={self.energy} free_energy={self.energy - 0.25} pbc="T T T"',
        ]
        for number, position, free, tag, force in zip(self.numbers, self.positions, self.free, self.tags, self.forces):
            columns = [f"{value:16.8f}" for value in (*position, *force)]
            columns[3:3] = ["T" if free else "F", str(tag)]
            lines.append(f"{chemical_symbols[number]:2} {' '.join(columns)}")
        return "\n".join(lines) + "\n"

    @property
    def line(self) -> str:
        return f"random{self.system},frame{self.number},{self.reference}\n"


def made_frames(count: int, seed: int = 0) -> list[Frame]:
    """Frames of random slabs with adsorbates; some atoms lie outside their cells."""
    rng = np.random.default_rng(seed)
    return [_made_frame(rng, index) for index in range(count)]


def _made_frame(rng: np.random.Generator, index: int) -> Frame:
    size = int(rng.integers(6, 12))
    tags = np.sort(rng.integers(0, 3, size))
    cell = np.diag([6.0, 7.0, 20.0]) + rng.normal(scale=0.3, size=(3, 3))
    grid = np.stack(np.meshgrid([0, 0.33, 0.66], [0, 0.33, 0.66], [0.1, 0.25]), -1).reshape(-1, 3)
    positions = (grid[rng.permutation(len(grid))[:size]] + rng.normal(scale=0.01, size=(size, 3))) @ cell
    return Frame(
        system=1000 + index // 2,
        number=int(rng.integers(0, 200)),
        numbers=rng.choice([1, 6, 8, 29, 78], size),
        positions=positions.round(8),
        cell=cell,
        free=tags > 0,
        tags=tags,
        forces=rng.normal(size=(size, 3)).round(8),
        energy=float(rng.normal(-300.0, 30.0)),
        reference=float(rng.normal(-300.0, 30.0)),
    )


def packed(members: Mapping[str, bytes] | Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w") -> bytes:
    """A tar archive; ``mode`` is ``w:gz`` for a compressed one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for member, content in members.items() if isinstance(members, Mapping) else members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            if info.isfile():
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def frame_members(frames: list[Frame], name: str = "s2ef_train_200K") -> dict[str, bytes]:
    """The members of an archive of S2EF frames, ``FRAMES_OF_A_PAIR`` in each pair of files."""
    members = {f"{name}/README_{name}.md": b"about these files"}
    for pair in range(0, len(frames), FRAMES_OF_A_PAIR):
        chosen = frames[pair : pair + FRAMES_OF_A_PAIR]
        stem = f"{name}/{name}/{pair // FRAMES_OF_A_PAIR}"
        members[f"{stem}.extxyz.xz"] = lzma.compress("".join(frame.text for frame in chosen).encode())
        members[f"{stem}.txt.xz"] = lzma.compress("".join(frame.line for frame in chosen).encode())
    return members


def lmdb_members(name: str, folder: Path) -> dict[str, bytes]:
    """The members of an archive of LMDBs, made in ``folder``; each split has other systems."""
    prefix = {"is2re": "is2res_train_val_test_lmdbs/data", "s2ef-test": "s2ef_test_lmdbs/test_data"}[name]
    members = {f"{prefix.split('/')[0]}/README.md": b"about these files"}
    for seed, split in enumerate(ARCHIVES[name].folders):
        path = write_lmdb(folder / split / "data.lmdb", 4, seed=seed)
        members[f"{prefix}/{split}/data.lmdb"] = path.read_bytes()
        members[f"{prefix}/{split}/data.lmdb-lock"] = b""
    return members


def publish(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, frames: int = 0) -> dict[str, bytes]:
    """Let ``name`` stand for a small archive; return it by the name of its file."""
    archive = replace(
        ARCHIVES[name], size=len(content), md5=hashlib.md5(content).hexdigest(), unpacked=0, frames=frames
    )
    monkeypatch.setitem(ARCHIVES, name, archive)
    return {archive.file: content}
