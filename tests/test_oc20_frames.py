"""Published frames of S2EF as LMDBs: energies, forces, tags, fixed atoms; processes, interruptions, damage."""

from __future__ import annotations

import contextlib
import lzma
import os
import pickle
import signal
import tarfile
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest
import torch
from fairchem.core.scripts import preprocess_ef
from oc20_archives import FRAMES_OF_A_PAIR, Frame, frame_members, made_frames, packed
from processes import forked, session_members
from test_file_faults import files_up_to

from fairchem_hdgnn.data.oc20 import conversion
from fairchem_hdgnn.data.oc20.archives import ARCHIVES
from fairchem_hdgnn.data.oc20.conversion import convert, work_folder
from fairchem_hdgnn.data.oc20.frames import pairs
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset

fault = pytest.mark.fault
Outcome = Callable[[object], None]

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared/data/oc20_s2ef.npz"
FRAMES = made_frames(5 * FRAMES_OF_A_PAIR)


def archive_of(frames: list[Frame]) -> Any:
    return replace(ARCHIVES["s2ef-200K"], frames=len(frames))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "s2ef_train_200K.tar"
    path.write_bytes(packed(frame_members(FRAMES)))
    return path


def check_records(folder: Path, frames: list[Frame]) -> None:
    """Against the numbers that the frames were written from."""
    dataset = SafeLmdbDataset({"src": str(folder)})
    assert len(dataset) == len(frames)
    assert dataset.get_metadata("natoms", list(range(len(frames)))) == [len(frame.numbers) for frame in frames]
    for index, frame in enumerate(frames):
        record = dataset[index]
        assert (record.sid, record.fid, record.natoms) == (frame.system, frame.number, len(frame.numbers))
        assert record.energy == pytest.approx(frame.energy - frame.reference, abs=1e-9)
        assert record.atomic_numbers.tolist() == frame.numbers.tolist()
        assert record.tags.tolist() == frame.tags.tolist() and record.tags.dtype == torch.long
        assert record.fixed.tolist() == [float(not free) for free in frame.free]
        assert record.pbc.tolist() == [[True] * 3]
        np.testing.assert_allclose(record.forces.numpy(), frame.forces, atol=1e-6)
        np.testing.assert_allclose(record.cell.numpy()[0], frame.cell, rtol=1e-6)
        inside = record.pos.numpy() @ np.linalg.inv(frame.cell)
        moved = inside - frame.positions @ np.linalg.inv(frame.cell)
        np.testing.assert_allclose(moved, moved.round(), atol=1e-5)
        assert inside.min() > -1e-5 and inside.max() < 1 + 1e-5


@pytest.mark.parametrize("workers", [1, 3])
def test_records_are_those_of_the_frames(file: Path, tmp_path: Path, workers: int) -> None:
    convert(file, archive_of(FRAMES), tmp_path / "train", workers)
    check_records(tmp_path / "train", FRAMES)
    assert sorted(tmp_path.iterdir()) == [file, tmp_path / "train"]


def test_layout_is_that_of_oc20(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversion, "PARTS", 2)
    convert(file, archive_of(FRAMES), tmp_path / "train", 1)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["data.0000.lmdb", "data.0001.lmdb", "metadata.npz"]
    part = str(tmp_path / "train/data.0000.lmdb")
    with lmdb.open(part, subdir=False, readonly=True, lock=False) as environment, environment.begin() as transaction:
        keys = {key for key, _ in transaction.cursor()}
        assert pickle.loads(transaction.get(b"length")) == 3 * FRAMES_OF_A_PAIR
    assert keys == {b"length", *(str(index).encode() for index in range(3 * FRAMES_OF_A_PAIR))}
    check_records(tmp_path / "train", FRAMES)


def test_numbers_of_atoms_are_those_of_the_records_beyond_ten_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As text, 10 comes before 2."""
    frames = made_frames(11 * FRAMES_OF_A_PAIR)
    path = tmp_path / "s2ef_train_200K.tar"
    path.write_bytes(packed(frame_members(frames)))
    monkeypatch.setattr(conversion, "PARTS", 1)
    convert(path, archive_of(frames), tmp_path / "train", 1)
    check_records(tmp_path / "train", frames)


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/oc20_s2ef.npz, frames of OC20")
def test_real_frames(tmp_path: Path) -> None:
    with np.load(REAL, allow_pickle=False) as arrays:
        every = {key: arrays[key] for key in arrays.files if key != "meta"}
    frames = []
    for index in range(0, len(every["y"]), 400):
        atoms = slice(every["ptr"][index], every["ptr"][index + 1])
        system, number = map(int, str(every["sid"][index]).removeprefix("random").split("_"))
        of_atoms = {key: every[key][atoms] for key in ("numbers", "tags", "forces")}
        frames.append(
            Frame(
                system=system, number=number, positions=every["pos"][atoms], cell=every["cell"][index],
                free=~every["fixed"][atoms].astype(bool), energy=float(every["y"][index]), reference=-100.5, **of_atoms,
            )
        )  # fmt: skip
    path = tmp_path / "s2ef_train_200K.tar"
    path.write_bytes(packed(frame_members(frames)))
    convert(path, archive_of(frames), tmp_path / "train", 1)
    check_records(tmp_path / "train", frames)


def test_records_are_those_of_fairchem(file: Path, tmp_path: Path) -> None:
    """Of its own script, which wants the files unpacked; but positions are put inside the cell here."""
    with tarfile.open(file) as archive:
        for member in archive:
            if member.name.endswith(".xz"):
                text = lzma.decompress(archive.extractfile(member).read())
                (tmp_path / Path(member.name).stem).write_bytes(text)
    flags = {"num_workers": 1, "get_edges": False, "ref_energy": True, "test_data": False}
    preprocess_ef.main(Namespace(data_path=tmp_path, out_path=tmp_path / "theirs", **flags))
    convert(file, archive_of(FRAMES), tmp_path / "ours", 1)
    theirs, ours = (SafeLmdbDataset({"src": str(tmp_path / name)}) for name in ("theirs", "ours"))
    by_id = {(record.sid, record.fid): record for record in (theirs[index] for index in range(len(theirs)))}
    assert len(by_id) == len(ours) == len(FRAMES)
    for record in (ours[index] for index in range(len(ours))):
        other = by_id[record.sid, record.fid]
        assert record.energy == pytest.approx(other.energy, abs=1e-9)
        # Types are those of OC20's LMDBs as published; fairchem's script has changed them since.
        for key in ("atomic_numbers", "fixed"):
            assert record[key].tolist() == other[key].tolist()
        for key in ("cell", "forces", "tags"):
            torch.testing.assert_close(record[key], other[key])
        moved = (record.pos - other.pos) @ record.cell[0].inverse()
        torch.testing.assert_close(moved, moved.round(), atol=1e-5, rtol=0)


# What stops a conversion.


def in_a_process(file: Path, target: Path, workers: int) -> ForkProcess:
    """A conversion in a session of its own, slow enough to be caught."""

    def work() -> None:
        os.setsid()
        slowly = conversion.records

        def records(*arguments: Any) -> Any:
            for record in slowly(*arguments):
                time.sleep(0.05)
                yield record

        conversion.records = records
        with contextlib.suppress(KeyboardInterrupt):
            convert(file, archive_of(FRAMES), target, workers)

    return forked(work)


def stored(target: Path) -> int:
    """Records that are stored so far."""
    count = 0
    for path in work_folder(target).glob("*.lmdb"):
        with contextlib.suppress(DataError), conversion._opened(path) as environment:
            count += sum(map(len, conversion._marks(environment).values()))
    return count


@fault("download", "a kill (SIGKILL), or Ctrl-C, while frames are converted")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_stopped_conversion_goes_on(
    file: Path, tmp_path: Path, by: int, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    monkeypatch.setattr(conversion, "PARTS", 2)
    target = tmp_path / "train"
    process = in_a_process(file, target, 2)
    session = process.pid
    while stored(target) == 0:
        time.sleep(0.05)
    os.kill(process.pid, by)
    process.join()
    deadline = time.monotonic() + 10
    while session_members(session) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not session_members(session)
    before = stored(target)
    assert 0 < before < len(FRAMES) and before % FRAMES_OF_A_PAIR == 0
    assert not target.exists()
    read = []
    converted = conversion.records
    monkeypatch.setattr(conversion, "ProcessPoolExecutor", AtOnce)
    monkeypatch.setattr(conversion, "records", lambda *pair: read.append(pair) or converted(*pair))
    convert(file, archive_of(FRAMES), target, 1)
    assert len(read) == (len(FRAMES) - before) // FRAMES_OF_A_PAIR
    check_records(target, FRAMES)
    outcome("correct: the processes end, whole files of frames are kept, the same command converts the others only")


class AtOnce:
    """A pool of this process alone."""

    def __init__(self, workers: int, mp_context: Any, initializer: Callable, initargs: tuple) -> None:
        conversion._shared[:] = initargs[:1]

    def __enter__(self) -> AtOnce:
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def submit(self, function: Callable, *arguments: Any) -> Any:
        future = conversion.Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, cancel_futures: bool) -> None:
        pass


@fault("download", "a process that converts frames is killed")
def test_killed_worker(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    first = os.getpid()

    def killed(*pair: Any) -> Any:
        if os.getpid() != first:
            os.kill(os.getpid(), signal.SIGKILL)
        return iter(())

    with monkeypatch.context() as patched, pytest.raises(DataError, match="was killed, perhaps out of memory") as error:
        patched.setattr(conversion, "records", killed)
        convert(file, archive_of(FRAMES), tmp_path / "train", 2)
    convert(file, archive_of(FRAMES), tmp_path / "train", 2)
    check_records(tmp_path / "train", FRAMES)
    outcome(f"error: {error.value}")


@fault("download", "a full disk while frames are converted")
def test_full_disk(file: Path, tmp_path: Path, outcome: Outcome) -> None:
    with files_up_to(30_000), pytest.raises(DataError, match="is the disk full") as error:
        convert(file, archive_of(FRAMES), tmp_path / "train", 1)
    assert "\n" not in str(error.value)
    convert(file, archive_of(FRAMES), tmp_path / "train", 1)
    check_records(tmp_path / "train", FRAMES)
    outcome("error: cannot be written; is the disk full? Converted frames are kept: re-run the same command to resume")


def test_damaged_part(file: Path, tmp_path: Path) -> None:
    """As a machine that lost its power may leave one."""
    part = work_folder(tmp_path / "train") / "data.0001.lmdb"
    part.parent.mkdir()
    part.write_bytes(b"no LMDB" * 2000)
    with pytest.raises(DataError, match=rf"{part}: damaged .* delete it and re-run the same command"):
        convert(file, archive_of(FRAMES), tmp_path / "train", 1)
    part.unlink()
    convert(file, archive_of(FRAMES), tmp_path / "train", 1)
    check_records(tmp_path / "train", FRAMES)


def spoiled(name: str, change: Callable[[bytes], bytes]) -> dict[str, bytes]:
    members = frame_members(FRAMES)
    [key] = [key for key in members if key.endswith(name)]
    members[key] = change(members[key])
    return members


def in_text(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda content: lzma.compress(lzma.decompress(content).replace(old.encode(), new.encode(), 1))


ATOM = FRAMES[4].text.splitlines()[2]
DAMAGE = [
    ("1.extxyz.xz", lambda content: content[:-40], "1.extxyz.xz: damaged"),
    ("1.extxyz.xz", lambda content: content[:500] + b"?" * 50 + content[550:], "1.extxyz.xz: damaged"),
    ("1.txt.xz", lambda content: b"no xz", "1.txt.xz: damaged"),
    ("1.extxyz.xz", in_text("energy=", "energie="), "1.extxyz.xz: frame 1: cannot be read (KeyError: 'energy')"),
    ("1.extxyz.xz", in_text("forces:R:3", "force:R:3"), "frame 1: cannot be read (KeyError: 'forces')"),
    ("1.extxyz.xz", in_text(ATOM + "\n", ""), "1.extxyz.xz: frame 1: cannot be read"),
    ("1.extxyz.xz", in_text(ATOM, ATOM.rsplit(" ", 1)[0] + " nan"), "are not three finite numbers per atom"),
    ("1.extxyz.xz", in_text(ATOM, ATOM.replace(" F 0 ", " F 7 ")), "its tags are not 0, 1 and 2"),
    ("1.txt.xz", in_text("random", "system"), "is not a system, frame and reference energy"),
    ("1.txt.xz", in_text(FRAMES[5].line, FRAMES[5].line.rsplit(",", 1)[0] + ",nan\n"), "frame 2: 'random1002"),
    ("1.txt.xz", in_text(FRAMES[7].line, ""), "differs from 1.txt.xz in the number of frames"),
    ("1.extxyz.xz", in_text(FRAMES[7].text, ""), "differs from 1.txt.xz in the number of frames"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), DAMAGE)
@fault("download", "a damaged file of frames, or a damaged frame")
def test_damaged_frames(
    tmp_path: Path, name: str, change: Callable, message: str, monkeypatch: pytest.MonkeyPatch, outcome: Outcome
) -> None:
    monkeypatch.setattr(conversion, "ProcessPoolExecutor", AtOnce)
    path = tmp_path / "frames.tar"
    path.write_bytes(packed(spoiled(name, change)))
    with pytest.raises(DataError) as error:
        convert(path, archive_of(FRAMES), tmp_path / "train", 1)
    assert message in str(error.value) and str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "train").exists()
    outcome("error: names the archive, the file in it and the frame")


def test_archives_that_hold_something_else(tmp_path: Path) -> None:
    path = tmp_path / "frames.tar"
    members = frame_members(FRAMES)
    for content, message in {
        b"no tar" * 1000: "not a tar archive",
        packed({"a/README": b""}): "contains no \\*.extxyz.xz",
        packed({name: content for name, content in members.items() if not name.endswith("/3.txt.xz")}): "3 lacks",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            pairs(path)


def test_frames_that_are_missing(file: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 20 frames, but the published archive has 21; delete this folder"):
        convert(file, replace(archive_of(FRAMES), frames=21), tmp_path / "train", 1)
    assert not (tmp_path / "train").exists()


def test_frames_are_read_in_the_order_of_their_files(tmp_path: Path) -> None:
    path = tmp_path / "frames.tar"
    content = {f"x/{number}{ending}": b"" for number in (10, 9, 0) for ending in (".extxyz.xz", ".txt.xz")}
    path.write_bytes(packed(content))
    assert [pair.name for pair in pairs(path)] == ["0", "9", "10"]
