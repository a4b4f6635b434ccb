"""How annotations are checked in tests: as the type checker reads them, so that an int is a float too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """For what repeats steps that other tests check: checks are half of the time of a small training."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
