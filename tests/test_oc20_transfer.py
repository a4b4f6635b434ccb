"""Fetching large files: what is continued, asked for again, refused, and what it leaves behind."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from file_server import FileServer, serving
from processes import forked
from test_file_faults import files_up_to

from fairchem_hdgnn.data.oc20.archives import Archive
from fairchem_hdgnn.data.oc20.checksums import verify
from fairchem_hdgnn.data.oc20.transfer import Patience, UnreachableError, fetch
from fairchem_hdgnn.errors import DataError, UserError

fault = pytest.mark.fault
Outcome = Callable[[object], None]

CONTENT = random.Random(0).randbytes(3_000_000)
NAME = "archive.tar"
QUICK = Patience(timeout=0.5, attempts=3, wait=0.01)


@pytest.fixture
def server() -> Iterator[FileServer]:
    with serving(files={NAME: CONTENT}) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / f"{NAME}.part"


def get(server: FileServer, part: Path, patience: Patience = QUICK) -> None:
    fetch(f"{server.address}/{NAME}", part, len(CONTENT), patience)


def refused(server: FileServer, part: Path) -> str:
    with pytest.raises(UserError) as error:
        get(server, part)
    assert "\n" not in str(error.value)
    return str(error.value).replace(server.address, "ADDRESS")


def test_a_file_arrives(server: FileServer, part: Path) -> None:
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert list(part.parent.iterdir()) == [part]
    get(server, part)
    assert server.asked == [(NAME, None)]


@fault("download", "a connection that drops, twice")
def test_a_dropped_connection_is_continued(server: FileServer, part: Path, outcome: Outcome) -> None:
    server.cuts = [1_000_000, 500_000]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert sum(server.sent) < 1.4 * len(CONTENT)
    outcome("correct: what is missing is asked for, the file is byte for byte the same")


@fault("download", "a connection that drops at every attempt")
def test_patience_ends(server: FileServer, part: Path, outcome: Outcome) -> None:
    server.cuts = [1_000_000] + [0] * 10
    message = refused(server, part)
    assert "3 times in a row" in message and "re-run the same command to resume" in message
    held = part.read_bytes()
    assert held and CONTENT.startswith(held)
    server.cuts.clear()
    server.asked.clear()
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert server.asked == [(NAME, f"bytes={len(held)}-")]
    outcome("error after 6 attempts that bring nothing; the part is kept, and the same command continues it")


@fault("download", "a server that stops sending")
def test_silence_times_out(server: FileServer, part: Path, outcome: Outcome) -> None:
    server.pause = 2.0
    message = refused(server, part)
    assert "timed out" in message
    outcome("error: ... timed out, 6 times in a row ...; the part is kept")


@fault("download", "a busy server (503) that recovers")
def test_busy_server(server: FileServer, part: Path, outcome: Outcome) -> None:
    server.statuses = [503, 503]
    get(server, part)
    assert part.read_bytes() == CONTENT
    outcome("correct: asked again, up to 6 times")


@fault("download", "a server that does not continue files")
def test_no_ranges(server: FileServer, part: Path, outcome: Outcome, capsys: pytest.CaptureFixture) -> None:
    server.ranges = False
    server.cuts = [1_000_000]
    get(server, part)
    assert part.read_bytes() == CONTENT
    assert "the server sends whole files only; starting over" in capsys.readouterr().err
    server.cuts = [1_000_000] * 9
    part.unlink()
    assert "3 times in a row" in refused(server, part)
    outcome("correct: starts over and says so; an error if that fails at the same place again and again")


@fault("download", "a file that changed on the server between two attempts")
@pytest.mark.parametrize("honest", [True, False])
def test_changed_file(
    server: FileServer, part: Path, honest: bool, outcome: Outcome, capsys: pytest.CaptureFixture
) -> None:
    server.cuts = [1_000_000] + [0] * 3
    refused(server, part)
    server.etag, server.files[NAME] = '"second"', CONTENT[::-1]
    server.cuts.clear()
    if not honest:
        # Some servers do not know If-Range and send the rest of the new file.
        notes = part.with_name(part.name + ".json")
        notes.write_text(notes.read_text().replace('\\"first\\"', 'W/\\"first\\"'))
    get(server, part)
    assert part.read_bytes() == CONTENT[::-1]
    assert "has changed since its beginning was fetched; starting over" in capsys.readouterr().err
    outcome("correct: starts over and says so")


def test_another_mirror_continues(server: FileServer, part: Path) -> None:
    server.cuts = [1_000_000] + [0] * 3
    refused(server, part)
    with serving(files={NAME: CONTENT}, etag='"other"') as mirror:
        get(mirror, part)
        assert mirror.asked[0][1] is not None
    assert part.read_bytes() == CONTENT


WRONG = [
    ("a file that is not there", {"statuses": [404]}, "the server responded 404"),
    ("a forbidden file", {"statuses": [403]}, "the server responded 403"),
    ("a server that always fails (500)", {"statuses": [500] * 9}, "responded 500 Internal Server Error, 3 times"),
    ("a login page instead of the archive", {"headers": {"Content-Type": "text/html; charset=utf-8"}}, "a web page"),
    (
        "a file of another size",
        {"files": {NAME: CONTENT[:-1]}},
        "has 2,999,999 bytes, but the published one has 3,000,000",
    ),
    ("redirections in a circle", {"statuses": [302] * 99, "headers": {"Location": "/x"}}, "is not a valid address"),
]


@pytest.mark.parametrize(
    ("how", "message"), [pytest.param(how, text, marks=fault("download", what), id=what) for what, how, text in WRONG]
)
def test_wrong_answers(server: FileServer, part: Path, how: dict, message: str, outcome: Outcome) -> None:
    for name, value in how.items():
        setattr(server, name, value)
    said = refused(server, part)
    assert message in said
    assert not part.exists()
    outcome(f"error: {said}".replace("3 times", "6 times"))


def test_packed_answers_are_kept_packed(server: FileServer, part: Path) -> None:
    """As of a server that takes .gz for an encoding."""
    server.headers = {"Content-Encoding": "gzip"}
    get(server, part)
    assert part.read_bytes() == CONTENT


@fault("download", "no network")
@pytest.mark.parametrize("address", ["http://127.0.0.1:{closed}", "http://no-such-host.invalid"])
def test_no_server(part: Path, address: str, outcome: Outcome) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = address.format(closed=taken.getsockname()[1])
        started = time.monotonic()
        with pytest.raises(UnreachableError, match="cannot be reached") as error:
            fetch(f"{address}/{NAME}", part, 10, QUICK)
    assert time.monotonic() - started < 20
    assert "\n" not in str(error.value)
    outcome("error: cannot be reached; says what to fetch elsewhere, its checksum, and how to go on")


@fault("download", "a server whose certificate is not trusted")
@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_certificate(server: FileServer, part: Path, tmp_path: Path, outcome: Outcome) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(tls=context, files={NAME: CONTENT}) as secure:
        message = refused(secure, part)
    assert "the server's certificate is not trusted" in message and "REQUESTS_CA_BUNDLE" in message
    assert not part.exists()
    outcome("error: the server's certificate is not trusted ...; set REQUESTS_CA_BUNDLE to your CA file")


def test_no_address(part: Path) -> None:
    with pytest.raises(UserError, match="--mirror: nonsense/x is not a valid address"):
        fetch("nonsense/x", part, 10, QUICK)


@fault("download", "a full disk")
def test_full_disk(server: FileServer, part: Path, outcome: Outcome) -> None:
    with files_up_to(1_000_000):
        message = refused(server, part)
    assert message.startswith(f"{part}: File too large; 1,000,000 of 3,000,000 bytes are kept: free some space")
    server.asked.clear()
    get(server, part)
    assert server.asked == [(NAME, "bytes=1000000-")]
    assert part.read_bytes() == CONTENT
    outcome(f"error: {message}")


@fault("download", "a kill (SIGKILL) in the middle")
def test_killed(server: FileServer, part: Path, outcome: Outcome) -> None:
    server.pause = 0.002
    process = forked(get, server, part, Patience())
    while not part.exists() or part.stat().st_size < 500_000:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    held = part.stat().st_size
    assert 500_000 <= held < len(CONTENT)
    server.pause = 0.0
    get(server, part)
    assert server.asked == [(NAME, None), (NAME, f"bytes={held}-")]
    assert server.sent[1] == len(CONTENT) - held
    assert part.read_bytes() == CONTENT
    outcome("correct: the same command asks for the missing bytes only")


def test_checksums(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    archive = Archive(NAME, len(CONTENT), hashlib.md5(CONTENT).hexdigest(), 0, ())
    verify(path, archive, "no remedy needed")
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(
        DataError, match=f"its MD5 checksum is [0-9a-f]{{32}}, but the published one is {archive.md5}; again"
    ):
        verify(path, archive, "again")
    path.write_bytes(CONTENT[1:])
    with pytest.raises(DataError, match="has 2,999,999 bytes"):
        verify(path, archive, "again")
