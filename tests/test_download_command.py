"""``fairchem-hdgnn download`` from a server to data that the shipped configs find."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving
from oc20_archives import FRAMES_OF_A_PAIR, frame_members, lmdb_members, made_frames, packed, publish
from processes import forked
from test_oc20_frames import check_records

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.cli.download import MIRROR
from fairchem_hdgnn.data.oc20 import obtaining, transfer
from fairchem_hdgnn.data.oc20.archives import ADDRESS, ARCHIVES, GROUPS, chosen, in_words
from fairchem_hdgnn.data.oc20.transfer import Patience
from fairchem_hdgnn.host.fairchem1.config_files import read_config
from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset
from fairchem_hdgnn.host.shipped import shipped_configs

fault = pytest.mark.fault
Outcome = Callable[[object], None]

FRAMES = made_frames(3 * FRAMES_OF_A_PAIR)
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Small archives in place of the published ones, and a folder to work in."""
    padding = {"notes.txt": random.Random(0).randbytes(1_500_000)}
    files = {
        **publish(monkeypatch, "is2re", packed({**lmdb_members("is2re", tmp_path / "made"), **padding}, "w:gz")),
        **publish(monkeypatch, "s2ef-test", packed(lmdb_members("s2ef-test", tmp_path / "made"), "w:gz")),
        **publish(monkeypatch, "s2ef-2M", packed({**frame_members(FRAMES), **padding}), len(FRAMES)),
        **publish(monkeypatch, "s2ef-val-id", packed(frame_members(FRAMES[:4])), 4),
    }
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(transfer.fetch, "__defaults__", (Patience(timeout=1.0, attempts=2, wait=0.01),))
    with serving(files=files) as server:
        monkeypatch.setenv(MIRROR, f"{server.address}/")
        yield server


@pytest.fixture
def run(capsys: pytest.CaptureFixture) -> Run:
    """Run the command; status, output, and the last line of errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["download", *arguments, "--num-workers=1"])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return status, said.out, said.err.rstrip().splitlines()[-1].rpartition("\r")[2] if said.err.strip() else ""

    return run


def refused(run: Run, *arguments: str) -> str:
    status, _, message = run(*arguments)
    assert status == 2
    assert message.startswith("fairchem-hdgnn download: error: ")
    return message.removeprefix("fairchem-hdgnn download: ")


def sources(pattern: str) -> set[str]:
    """What the shipped configs read, below ``data``."""
    configs = [read_config(str(path), []) for path in sorted(shipped_configs().glob(pattern))]
    assert configs
    return {split["src"] for config in configs for split in config["dataset"].values()}


def test_is2re_lies_where_the_configs_look(server: FileServer, run: Run) -> None:
    status, said, _ = run("is2re")
    assert status == 0
    assert said.splitlines() == [f"data/{folder}: ready" for folder in ARCHIVES["is2re"].folders]
    for source in sources("oc20/is2re/10k/*.yml") | sources("oc20/is2re/100k/*.yml") | sources("oc20/is2re/all/*.yml"):
        assert len(SafeLmdbDataset({"src": source})) == 4
    assert [path.name for path in Path("data").iterdir()] == ["is2re"]
    asked = len(server.asked)
    status, said, _ = run("is2re")
    assert status == 0 and said.count("already exists") == len(ARCHIVES["is2re"].folders) == 11
    assert len(server.asked) == asked


@pytest.mark.parametrize(
    ("names", "config", "model"),
    [
        (["is2re"], "hdgnn:oc20/is2re/10k/hdgnn.yml", {"lmax": 1, "lmax_metp": 1}),
        (["s2ef-2M", "s2ef-val-id", "s2ef-test"], "hdgnn:oc20/s2ef/2M/escn_so2.yml", {"lmax": 1, "mmax": 1}),
    ],
)
def test_trainer_takes_what_was_downloaded(
    server: FileServer, run: Run, capsys: pytest.CaptureFixture, names: list[str], config: str, model: dict[str, int]
) -> None:
    """A step of training and one of evaluation, by networks that are smaller than the configs'."""
    assert run(*names)[0] == 0
    model = {**model, "num_layers": 1, "sphere_channels": 4, "hidden_channels": 8, "edge_channels": 8}
    assert main(["check", config, *(f"--set=model.{key}={value}" for key, value in model.items())]) == 0
    assert "error" not in capsys.readouterr().out.replace("0 errors", "")


def test_s2ef_lies_where_the_configs_look(server: FileServer, run: Run) -> None:
    status, said, _ = run("s2ef-2M", "s2ef-val-id", "s2ef-test", "--keep-archive")
    assert status == 0
    assert "data/s2ef/2M/train: ready\ndata/s2ef/all/val_id: ready\ndata/s2ef/all/test_id: ready\n" in said
    assert sources("oc20/s2ef/2M/*.yml") == {"data/s2ef/2M/train", "data/s2ef/all/val_id", "data/s2ef/all/test_id"}
    check_records(Path("data/s2ef/2M/train"), FRAMES)
    check_records(Path("data/s2ef/all/val_id"), FRAMES[:4])
    assert len(SafeLmdbDataset({"src": "data/s2ef/all/test_id"})) == 4
    kept = {ARCHIVES[name].file for name in ("s2ef-2M", "s2ef-val-id", "s2ef-test")}
    assert {path.name for path in Path("data/archives").iterdir()} == kept


def test_archives_from_another_machine(server: FileServer, run: Run, tmp_path: Path) -> None:
    folder, file = tmp_path / "usb", ARCHIVES["s2ef-2M"].file
    folder.mkdir()
    message = refused(run, "s2ef-2M", "--from", str(folder))
    assert message == (
        f"error: {folder}/{file}: no such file; fetch {server.address}/{file} "
        f"({in_words(ARCHIVES['s2ef-2M'].size)}, MD5 {ARCHIVES['s2ef-2M'].md5}) and put it there"
    )
    (folder / file).write_bytes(server.files[file])
    assert run("s2ef-2M", "--from", str(folder), "--out", "elsewhere")[0] == 0
    check_records(Path("elsewhere/s2ef/2M/train"), FRAMES)
    assert (folder / file).exists()
    assert not server.asked
    (folder / file).write_bytes(server.files[file][::-1])
    assert "its MD5 checksum is" in refused(run, "s2ef-2M", "--from", str(folder))


def test_no_network_says_what_to_do(server: FileServer, run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        message = refused(run, "s2ef-2M", "s2ef-val-id", "--mirror", address)
    for name in ("s2ef-2M", "s2ef-val-id"):
        assert f"{address}/{ARCHIVES[name].file} ({in_words(ARCHIVES[name].size)}, MD5 {ARCHIVES[name].md5})" in message
    assert "`fairchem-hdgnn download s2ef-2M s2ef-val-id --out data --from FOLDER`" in message


@fault("download", "a wrong checksum")
def test_wrong_checksum(server: FileServer, run: Run, outcome: Outcome) -> None:
    file = ARCHIVES["s2ef-2M"].file
    right = server.files[file]
    server.files[file] = right[:-1] + b"?"
    message = refused(run, "s2ef-2M")
    assert (
        f"the published one is {ARCHIVES['s2ef-2M'].md5}; it was renamed to {file}.damaged; re-run the same command"
        in message
    )
    assert [path.name for path in Path("data/archives").iterdir() if not path.name.startswith(".")] == [
        f"{file}.damaged"
    ]
    server.files[file] = right
    server.asked.clear()
    assert run("s2ef-2M")[0] == 0
    assert server.asked == [(file, None)]
    check_records(Path("data/s2ef/2M/train"), FRAMES)
    assert not Path("data/archives").exists()
    outcome(
        "error: names both checksums; the file is renamed to .damaged; re-run the same command to download it again"
    )


@fault("download", "Ctrl-C in the middle")
@pytest.mark.parametrize("name", ["s2ef-2M", "is2re"])
def test_interrupted(server: FileServer, run: Run, name: str, tmp_path: Path, outcome: Outcome) -> None:
    server.pause = 0.002
    log, file = tmp_path / "log", ARCHIVES[name].file

    def work() -> None:
        with log.open("w") as stream, contextlib.redirect_stderr(stream), contextlib.redirect_stdout(stream):
            status = main(["download", name, "--num-workers=1"])
            stream.flush()
        os._exit(status)

    part = Path("data/archives") / f"{file}.part"
    process = forked(work)
    while not part.exists() or part.stat().st_size < 500_000:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 130
    said = log.read_text()
    assert said.endswith("fairchem-hdgnn download: interrupted; re-run the same command to resume\n")
    assert "Traceback" not in said
    held = part.stat().st_size
    server.pause = 0.0
    assert run(name)[0] == 0
    assert server.asked == [(file, None), (file, f"bytes={held}-")]
    outcome("exit status 130, one line; the part is kept, and the same command continues it")


@fault("download", "the same download twice at once")
def test_two_at_once(server: FileServer, run: Run, outcome: Outcome) -> None:
    lock = Path("data/archives") / f".{ARCHIVES['s2ef-2M'].file}.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        message = refused(run, "s2ef-2M")
        assert not server.asked
    assert run("s2ef-2M")[0] == 0
    outcome(message)


@fault("download", "too little room")
def test_room_is_seen_to_first(server: FileServer, run: Run, monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> None:
    usage = type("usage", (), {"free": 5_000})
    monkeypatch.setattr(obtaining.shutil, "disk_usage", lambda path: usage)
    message = refused(run, "is2re", "s2ef-2M")
    assert "--out data: is2re, s2ef-2M needs up to " in message and "5 kB are free" in message
    assert not server.asked
    outcome("error: --out data: is2re needs up to 112 GB, but ... are free; free some space, or choose another folder")


def test_folders_that_cannot_be_used(server: FileServer, run: Run) -> None:
    Path("file").write_text("")
    assert "--out file/data: cannot be created" in refused(run, "is2re", "--out", "file/data")
    Path("odd").mkdir()
    Path("odd/archives").write_text("")
    assert refused(run, "is2re", "--out", "odd").startswith("error: odd/archives")
    taken = Path("data/s2ef/2M/train/notes.txt")
    taken.parent.mkdir(parents=True)
    taken.write_text("own")
    assert "data/s2ef/2M/train exists already" in refused(run, "s2ef-2M")
    assert not server.asked


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_leave_to_write(server: FileServer, run: Run) -> None:
    Path("data").mkdir(mode=0o555)
    assert "--out data: is not writable" in refused(run, "is2re")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["s2ef-2m"], "error: 's2ef-2m': not a part of OC20; did you mean 's2ef-2M'?"),
        (["is2re", "oc22"], "error: 'oc22': not a part of OC20; valid: is2re, s2ef-200K, "),
        (["s2ef-2M", "--mirror", "nonsense"], "error: --mirror: nonsense/s2ef_train_2M.tar is not a valid address"),
    ],
)  # fmt: skip
def test_refusals(server: FileServer, run: Run, arguments: list[str], message: str) -> None:
    assert refused(run, *arguments).startswith(message)


def test_table() -> None:
    """What is published; a slip of a digit would only show after hours."""
    assert list(chosen(["s2ef-val", "s2ef-val-id"])) == list(GROUPS["s2ef-val"])
    assert ADDRESS.startswith("https://")
    for archive in ARCHIVES.values():
        assert len(archive.md5) == 32 and set(archive.md5) <= set("0123456789abcdef")
        # GNU tar fills its archives up to blocks of 10,240 bytes.
        assert archive.size % 10_240 == 0 or archive.file.endswith(".gz")
    folders = [folder for archive in ARCHIVES.values() for folder in archive.folders]
    assert len(set(folders)) == len(folders)
    assert len({archive.md5 for archive in ARCHIVES.values()}) == len(ARCHIVES)
