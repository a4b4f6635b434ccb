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
        DataError: if ``target`` exists and is not an empty directory, or cannot be written.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        refuse_existing(target)
        partial.mkdir(parents=True)
        yield partial
        refuse_existing(target)
        partial.replace(target)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise DataError(f"cannot write {target}: {os.strerror(error.errno)}; no partial files were left") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refuse_existing(target: Path) -> None:
    """Raise ``DataError`` if ``target`` exists, unless it is an empty directory."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists():
        raise DataError(f"{target} exists already: remove it or choose another path")
