"""Create directories atomically, so that a killed run leaves no partial result."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fairchem_hdgnn.errors import DataError

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """Yield a temporary directory next to ``target`` that is renamed to it if the block succeeds.

    Raises:
        DataError: if ``target`` exists and is not an empty directory, is the current directory, or cannot be written.
    """
    with _explained(target):
        refuse_existing(target)
    final = target.resolve()
    if final == Path.cwd():
        raise DataError(f"{target} is the current directory: choose another path, or run the command from another one")
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        with _explained(target):
            partial.mkdir(parents=True)
        try:
            yield partial
        except OSError as error:
            if error.errno not in _UNWRITABLE:
                raise
            raise _unwritable(target, error) from error
        with _explained(target):
            refuse_existing(target)
            partial.replace(final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unwritable(target, error) from error


def _unwritable(target: Path, error: OSError) -> DataError:
    return DataError(f"cannot write {target}: {error.strerror or error}; no partial files were left")


def refuse_existing(target: Path) -> None:
    """Raise ``DataError`` if ``target`` exists, unless it is an empty directory."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise DataError(f"{target} exists already: remove it or choose another path")
