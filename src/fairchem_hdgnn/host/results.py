"""Write fairchem's result files atomically."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairchem_hdgnn.errors import DataError


@contextlib.contextmanager
def written_whole(results: Path, *, here: bool) -> Iterator[Path]:
    """Yield a temporary folder to write into; its files move to ``results`` if the block succeeds.

    Args:
        results: the run's results folder.
        here: whether this process writes; otherwise ``results`` itself is yielded.

    Raises:
        DataError: the files cannot be written; earlier files are unchanged.
    """
    if not here:
        yield results
        return
    try:
        with tempfile.TemporaryDirectory(dir=results, prefix=".") as folder:
            yield Path(folder)
            for file in Path(folder).iterdir():
                file.replace(results / file.name)
    except OSError as error:
        raise DataError(f"{results}: results cannot be written ({error.strerror or error})") from error
