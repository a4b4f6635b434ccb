"""Errors that a user can act on: one line that names the cause and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A problem in the user's input: a file, a key, a structure.

    Command-line entry points print its message as one line and exit with status 2.
    """


class ConfigError(UserError):
    """A configuration key or value that cannot be used."""


class DataError(UserError):
    """A file, record or structure that cannot be used."""


class TrainingError(UserError):
    """Training cannot continue: a number is not finite, or a batch does not fit into memory."""


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name closest to ``name``, if any is close."""
    return next(iter(difflib.get_close_matches(name, sorted(valid), n=1, cutoff=0.5)), None)


def suggestion(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the valid name closest to ``name``, else the list of valid names."""
    # A name from a user's file can contain a line break.
    names = sorted(name if name.isprintable() else repr(name) for name in valid)
    close = nearest(name, names)
    return f"; did you mean '{close}'?" if close else f"; valid: {', '.join(names)}"
