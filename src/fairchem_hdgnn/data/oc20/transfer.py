"""Download a large file over HTTP to ``NAME.part``; resumes, and retries when the connection drops."""

from __future__ import annotations

import errno
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from fairchem_hdgnn.data.oc20.answers import CHANGED, DroppedError, Identity, StaleError, judge
from fairchem_hdgnn.errors import ConfigError, DataError

CHUNK = 2**18
"""Bytes per write: the most that a kill can lose."""

NO_RANGES = "the server sends whole files only"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

NO_ADDRESS = (
    requests.exceptions.InvalidSchema,
    requests.exceptions.InvalidURL,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
)


class UnreachableError(DataError):
    """No server responds at an address: there is no network, or no route to it."""


@dataclass(frozen=True)
class Patience:
    """Timeouts and retries.

    Attributes:
        timeout: for its next bytes, s.
        attempts: in a row that bring nothing new.
        wait: after an attempt, s; doubles with each that brought nothing, up to 60 s.
    """

    timeout: float = 60.0
    attempts: int = 6
    wait: float = 1.0


PATIENCE = Patience()


def part_of(path: Path) -> Path:
    """Path of a file while it is downloaded."""
    return path.with_name(path.name + ".part")


def held(part: Path) -> int:
    """Bytes on disk."""
    return part.stat().st_size if part.exists() else 0


def discard(part: Path) -> None:
    """Remove a part and its metadata."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def fetch(address: str, part: Path, size: int, patience: Patience = PATIENCE) -> None:
    """Download the file at ``address`` to ``part`` until it has ``size`` bytes.

    Raises:
        UnreachableError: no server answers.
        ConfigError: there is no such address.
        DataError: the file is not there or is another one, the connection drops again and again, or the disk is full.
            What was fetched stays, and the next call continues it.
    """
    if held(part) > size:
        discard(part)
    most = held(part)
    with (
        requests.Session() as session,
        tqdm(desc=part.stem, total=size, initial=most, unit="B", unit_scale=True, dynamic_ncols=True) as bar,
    ):
        transfer = _Transfer(session, address, part, size, patience.timeout, bar)
        failures = 0
        while held(part) < size:
            reason = transfer.attempt()
            failures = 0 if held(part) > most else failures + 1
            most = max(most, held(part))
            if failures == patience.attempts:
                raise DataError(
                    f"{address}: {reason}, {failures} times in a row; {most:,} of {size:,} bytes are in {part}; "
                    "re-run the same command to resume"
                )
            if held(part) < size:
                time.sleep(min(patience.wait * 2**failures, 60.0))
    _notes(part).unlink(missing_ok=True)


class _Transfer:
    """Requests for one file; ``answered`` is set once a server has responded."""

    def __init__(
        self, session: requests.Session, address: str, part: Path, size: int, timeout: float, bar: tqdm
    ) -> None:
        self.session, self.address, self.timeout = session, address, timeout
        self.part, self.size, self.bar = part, size, bar
        self.answered = False

    def attempt(self) -> str:
        """Request the missing bytes once, write the response, and return why it ended."""
        try:
            self._ask_and_receive()
        except StaleError as problem:
            self._tell(str(problem))
            discard(self.part)
            return str(problem)
        except DroppedError as problem:
            return str(problem)
        return "the connection ended early"

    def _ask_and_receive(self) -> None:
        start, notes = held(self.part), Identity.read(_notes(self.part))
        with self._ask(start, notes) as response:
            continues = judge(self.address, response, start, self.size, notes)
            identity = Identity.of(self.address, response)
            if start and not continues:
                self._tell(f"{self.address}: {CHANGED if notes.contradicts(identity) else NO_RANGES}; starting over")
            identity.write(_notes(self.part))
            self.bar.n = start if continues else 0
            self.bar.refresh()
            self._receive(response, "ab" if continues else "wb")

    def _ask(self, start: int, notes: Identity) -> requests.Response:
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers.update({"Range": f"bytes={start}-", **notes.condition(self.address)})
        try:
            response = self.session.get(self.address, headers=headers, stream=True, timeout=self.timeout)
        except NO_ADDRESS as error:
            raise ConfigError(f"--mirror: {self.address} is not a valid address ({_cause(error)})") from error
        except requests.RequestException as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DataError(
                    f"{self.address}: the server's certificate is not trusted ({_cause(error)}); set the "
                    "environment variable REQUESTS_CA_BUNDLE to your CA file, or choose another address with --mirror"
                ) from error
            if not self.answered:
                raise UnreachableError(f"{self.address}: cannot be reached ({_cause(error)})") from error
            raise DroppedError(_cause(error)) from error
        self.answered = True
        # Servers that know .gz by its name announce it as an encoding, and the archive would arrive unpacked.
        response.raw.headers.pop("Content-Encoding", None)
        return response

    def _receive(self, response: requests.Response, mode: str) -> None:
        try:
            with self.part.open(mode) as file:
                for chunk in response.iter_content(CHUNK):
                    file.write(chunk)
                    self.bar.update(len(chunk))
                    if self.bar.n > self.size:
                        raise StaleError(f"{self.address}: the file on the server is longer than {self.size:,} bytes")
        except requests.RequestException as error:
            raise DroppedError(_cause(error)) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise DataError(
                f"{self.part}: {os.strerror(error.errno)}; {held(self.part):,} of {self.size:,} bytes are kept: free "
                "some space and re-run the same command to resume"
            ) from error

    def _tell(self, text: str) -> None:
        self.bar.write(text, file=sys.stderr)


def _cause(error: BaseException) -> str:
    """The root cause of an error, in one line."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split()) or type(error).__name__
