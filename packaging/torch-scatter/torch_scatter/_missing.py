"""Errors for names that only the real package has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch

MISSING = frozenset({"scatter_log_softmax", "scatter_logsumexp", "scatter_softmax", "scatter_std"})
"""Functions of the real package that this stand-in leaves out."""


def left_out(what: str) -> str:
    """One-line message that says how to install the real package."""
    major, minor = torch.__version__.split(".")[:2]
    build = "cu" + torch.version.cuda.replace(".", "") if torch.version.cuda else "cpu"
    return (
        f"{what} is not in this stand-in; install the real package: pip install --force-reinstall --no-deps "
        f"torch-scatter -f https://data.pyg.org/whl/torch-{major}.{minor}.0+{build}.html"
    )


def missing(name: str) -> Callable[..., NoReturn]:
    """A placeholder for ``torch_scatter.<name>``: a function that raises when called, so that it can be imported.

    Raises:
        AttributeError: the real package has no such function either.
    """
    what = f"torch_scatter.{name}"
    if name not in MISSING:
        raise AttributeError(left_out(what))

    def function(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(left_out(what))

    function.__name__ = function.__qualname__ = name
    return function
