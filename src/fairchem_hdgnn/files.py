"""Files that are complete or absent, whatever interrupts the program that writes them; checksums; paths as written."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fairchem_hdgnn.errors import ConfigError, DataError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")


@contextlib.contextmanager
def complete_or_absent(path: str | Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes ``path``'s place when the block ends well.

    A file that stood at ``path`` before stays as it was until then, and for good if the block raises.

    Raises:
        DataError: the file system refused: the disk is full, or nothing may be written there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); what was there before is intact"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def expanded(path: str) -> str:
    """``path`` with ``~`` and ``$VARIABLE`` resolved.

    Raises:
        ConfigError: a variable is not set.
    """
    whole = os.path.expandvars(path)
    unset = _VARIABLE.search(whole)
    if unset and not Path(whole).exists():
        raise ConfigError(f"{path}: the environment variable {unset[1] or unset[2]} is not set")
    return str(Path(whole).expanduser()) if whole.startswith("~") else whole
