"""Archives of LMDBs: each split appears whole or not at all, and nothing leaves the folder."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from oc20_archives import packed
from test_file_faults import files_up_to

from fairchem_hdgnn.data.oc20 import unpacking
from fairchem_hdgnn.data.oc20.unpacking import unpack
from fairchem_hdgnn.errors import DataError

fault = pytest.mark.fault
Outcome = Callable[[object], None]

FOLDERS = ("is2re/10k/train", "is2re/all/train")
MEMBERS = {
    "release/README.md": b"about",
    "release/data/is2re/10k/train/data.lmdb": bytes(range(256)) * 2000,
    "release/data/is2re/10k/train/data.lmdb-lock": b"",
    "release/data/is2re/all/train/data.0000.lmdb": b"first",
    "release/data/is2re/all/train/data.0001.lmdb": b"second",
    "release/data/is2re/100k/train/data.lmdb": b"not wanted",
}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "archives" / "release.tar.gz"
    path.parent.mkdir()
    path.write_bytes(packed(MEMBERS, "w:gz"))
    return path


def written(data: Path) -> dict[str, bytes]:
    return {path.relative_to(data).as_posix(): path.read_bytes() for path in data.rglob("*") if path.is_file()}


def test_splits_lie_where_configs_look(archive: Path, tmp_path: Path) -> None:
    unpack(archive, FOLDERS, tmp_path / "data")
    assert written(tmp_path / "data") == {
        "is2re/10k/train/data.lmdb": MEMBERS["release/data/is2re/10k/train/data.lmdb"],
        "is2re/all/train/data.0000.lmdb": b"first",
        "is2re/all/train/data.0001.lmdb": b"second",
    }
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["is2re"]


def test_other_splits_stay(archive: Path, tmp_path: Path) -> None:
    own = tmp_path / "data" / FOLDERS[0] / "data.lmdb"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"own")
    unpack(archive, FOLDERS[1:], tmp_path / "data")
    assert own.read_bytes() == b"own"
    assert (tmp_path / "data" / FOLDERS[1] / "data.0001.lmdb").exists()


@fault("download", "Ctrl-C while an archive is unpacked")
def test_interruption(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    whole = unpacking._write

    def interrupted(path: Path, blocks: Iterator[bytes]) -> None:
        whole(path, blocks)
        if "all" in path.parts:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(unpacking, "_write", interrupted)
        unpack(archive, FOLDERS, tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
    unpack(archive, FOLDERS, tmp_path / "data")
    assert len(written(tmp_path / "data")) == 3
    outcome("no partial files are left; the archive is kept: re-run the same command")


def test_what_a_kill_left_is_removed(archive: Path, tmp_path: Path) -> None:
    left = tmp_path / "data" / f".{archive.name}.unpacking" / FOLDERS[0] / "data.9999.lmdb"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    unpack(archive, FOLDERS, tmp_path / "data")
    assert len(written(tmp_path / "data")) == 3


@fault("download", "a full disk while an archive is unpacked")
def test_full_disk(archive: Path, tmp_path: Path, outcome: Outcome) -> None:
    with files_up_to(100_000), pytest.raises(DataError, match="File too large while unpacking") as error:
        unpack(archive, FOLDERS, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").iterdir())
    outcome(f"error: {error.value}")


def odd(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


MALICIOUS = [
    ("an absolute path", odd("/tmp/evil/is2re/10k/train/data.lmdb"), "would be written outside of"),
    ("a path with ..", odd("release/../../is2re/10k/train/data.lmdb"), "would be written outside of"),
    ("a symbolic link", odd("is2re/10k/train/data.lmdb", tarfile.SYMTYPE, "/etc/passwd"), "is neither a file nor"),
    ("a hard link", odd("is2re/10k/train/data.lmdb", tarfile.LNKTYPE, "/etc/passwd"), "is neither a file nor"),
    ("a device", odd("is2re/10k/train/data.lmdb", tarfile.CHRTYPE), "is neither a file nor"),
    ("a named pipe", odd("is2re/10k/train/data.lmdb", tarfile.FIFOTYPE), "is neither a file nor"),
]  # fmt: skip


@pytest.mark.parametrize(("member", "message"), [pytest.param(*rest, id=what) for what, *rest in MALICIOUS])
@fault("download", "an archive with links, devices or paths that lead elsewhere")
def test_malicious_archive(tmp_path: Path, member: tarfile.TarInfo, message: str, outcome: Outcome) -> None:
    good = [(odd(name), content) for name, content in MEMBERS.items()]
    path = tmp_path / "archives" / "evil.tar"
    path.parent.mkdir()
    path.write_bytes(packed([*good, (member, b"evil" if member.isfile() else b"")]))
    with pytest.raises(DataError, match=message) as error:
        unpack(path, FOLDERS, tmp_path / "data")
    assert member.name in str(error.value) and "\n" not in str(error.value)
    assert not list((tmp_path / "data").iterdir())
    assert sorted(item.name for item in tmp_path.iterdir()) == ["archives", "data"]
    outcome("error: names the member; nothing is written")


@fault("download", "an archive that is damaged in spite of its checksum")
@pytest.mark.parametrize("spoil", [
    lambda content: content[: len(content) // 2],
    lambda content: b"no archive" * 100,
    lambda content: content[:200] + b"????" + content[204:],
])  # fmt: skip
def test_damaged_archive(archive: Path, tmp_path: Path, spoil: Callable[[bytes], bytes], outcome: Outcome) -> None:
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(DataError, match=r"damaged|contains no LMDB") as error:
        unpack(archive, FOLDERS, tmp_path / "data")
    assert str(error.value).startswith(str(archive)) and "\n" not in str(error.value)
    assert not list((tmp_path / "data").iterdir())
    outcome("error: archive: damaged; delete it and re-run the same command")


def test_archive_without_a_split(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="contains no LMDB in is2re/all/val_id"):
        unpack(archive, (*FOLDERS, "is2re/all/val_id"), tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())
