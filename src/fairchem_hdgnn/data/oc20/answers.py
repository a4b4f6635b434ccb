"""Interpret a server's response to a request for a file, or for the rest of one."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import requests

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent

TEMPORARY = {408, 425, 429, 500, 502, 503, 504}
"""Statuses after which the same request may succeed."""

WHOLE, PARTIAL, BEYOND_THE_END = 200, 206, 416
"""Statuses for a whole file, the rest of one, and no rest."""

CHANGED = "the file has changed since its beginning was fetched"

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class DroppedError(Exception):
    """The connection ended early, or the server is busy: the rest can be requested again."""


class StaleError(Exception):
    """The local part does not belong to the file on the server: it must be downloaded from the start."""


@dataclass(frozen=True)
class Identity:
    """Identity of a file on a server, to detect whether it has changed.

    Attributes:
        address: the requested address.
        etag: the server's name for this version, or empty.
        last_modified: its date, as the server writes it, or empty.
    """

    address: str
    etag: str = ""
    last_modified: str = ""

    @classmethod
    def of(cls, address: str, response: requests.Response) -> Identity:
        """The identity of the file in a response."""
        return cls(address, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))

    @classmethod
    def read(cls, path: Path) -> Identity:
        """The identity stored by ``write``; an empty one if there is none."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return cls("")

    def write(self, path: Path) -> None:
        """Store it for the next run.

        Raises:
            DataError: it cannot be written.
        """
        with complete_or_absent(path) as temporary:
            temporary.write_text(json.dumps(asdict(self)))

    def condition(self, address: str) -> dict[str, str]:
        """The header that requests the rest of this version of the file, or else the whole file."""
        validator = self.last_modified if self.etag.startswith("W/") else self.etag or self.last_modified
        return {"If-Range": validator} if validator and address == self.address else {}

    def contradicts(self, other: Identity) -> bool:
        """Whether the two are different versions at the same address."""
        pairs = [(self.etag, other.etag), (self.last_modified, other.last_modified)]
        return self.address == other.address and any(one and two and one != two for one, two in pairs)


def judge(address: str, response: requests.Response, held: int, size: int, known: Identity) -> bool:
    """Whether a response continues the ``held`` bytes; otherwise it contains the whole file.

    Args:
        address: the requested address.
        response: the answer.
        held: bytes already on disk, which the request asked to continue.
        size: bytes that the file must have.
        known: identity of the file whose beginning is on disk.

    Raises:
        DroppedError: the server is busy.
        StaleError: the response does not match the local part.
        DataError: there is no such file, or another one.
    """
    status = response.status_code
    if status in TEMPORARY:
        raise DroppedError(f"the server responded {status} {response.reason}")
    if status == BEYOND_THE_END:
        raise StaleError(f"{address}: the file on the server is shorter than the local part; starting over")
    if status not in (WHOLE, PARTIAL):
        raise DataError(
            f"{address}: the server responded {status} {response.reason}; check that the address opens in a browser, "
            "or "
            "choose another with --mirror"
        )
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise DataError(
            f"{response.url}: a web page, not the archive, perhaps from a proxy or a login; download the file with a "
            "browser and use --from, or choose another address with --mirror"
        )
    start, total = _extent(response)
    if total is not None and total != size:
        raise DataError(
            f"{address}: the file on the server has {total:,} bytes, but the published one has {size:,}; choose "
            "another address with "
            "--mirror"
        )
    if status == PARTIAL and known.contradicts(Identity.of(address, response)):
        raise StaleError(f"{address}: {CHANGED}; starting over")
    if status == PARTIAL and start != held:
        raise StaleError(f"{address}: the server sent a different part than requested; starting over")
    return status == PARTIAL


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Offset of a response's bytes in the file, and the size of the file if the response states it."""
    if response.status_code == PARTIAL:
        found = _RANGE.match(response.headers.get("Content-Range", ""))
        if found is None:
            return -1, None
        return int(found[1]), None if found[2] == "*" else int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
