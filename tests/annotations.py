"""How annotations are checked in tests: as the type checker reads them, so that an int is a float too."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CHECKS_OF_A_TEST = 5_000
"""Some forward and backward passes of a small network; what follows repeats them, and would take half of all time."""

_num_checks = 0


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which checks its arguments until the test has had enough checks."""
    checked = beartype(conf=BeartypeConf(is_pep484_tower=True))(function)

    @functools.wraps(checked)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _num_checks  # noqa: PLW0603
        _num_checks += 1
        if _num_checks == CHECKS_OF_A_TEST:
            jaxtyping.config.update("jaxtyping_disable", True)
        return checked(*args, **kwargs)

    return counted


def begin_test() -> None:
    """Check again."""
    global _num_checks  # noqa: PLW0603
    _num_checks = 0
    jaxtyping.config.update("jaxtyping_disable", False)
