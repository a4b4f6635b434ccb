"""Atomic writing of files, checksums, expansion of paths."""

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
    """Yield a temporary path next to ``path`` to write to; it replaces ``path`` atomically if the block succeeds.

    If the block raises, an existing file at ``path`` is left unchanged.

    Raises:
        DataError: the file cannot be written: the disk is full, or there is no write permission.
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
            f"{path}: cannot be written ({error.strerror or error}); an existing file is unchanged"
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
    """``path`` with ``~`` and ``$VARIABLE`` expanded.

    Raises:
        ConfigError: a variable is not set.
    """
    whole = os.path.expandvars(path)
    unset = _VARIABLE.search(whole)
    if unset and not Path(whole).exists():
        raise ConfigError(f"{path}: the environment variable {unset[1] or unset[2]} is not set")
    return str(Path(whole).expanduser()) if whole.startswith("~") else whole


def require_writable(folder: Path) -> None:
    """Check, before work that takes long, that files can be written to a folder that may not exist yet.

    Raises:
        DataError: it or a part of its path is a file, or there is no write permission.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise DataError(f"{folder}: cannot be written ({existing} is not a folder); choose another path")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise DataError(f"{folder}: cannot be written (no permission for {existing}); choose another path")
