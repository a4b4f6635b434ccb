"""Files of results that are whole or absent, although fairchem writes them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fairchem_hdgnn.errors import DataError


@contextlib.contextmanager
def written_whole(results: Path, *, here: bool) -> Iterator[Path]:
    """A folder to write into; what is in it takes its place in ``results`` when the block ends well.

    Args:
        results: the run's folder of results.
        here: whether this process writes; for the others it is ``results`` itself.

    Raises:
        DataError: the file system refused; earlier files stay.
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
