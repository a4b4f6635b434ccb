"""Which fairchem-core is installed. Two generations of it cannot be: both are imported as ``fairchem``."""

from __future__ import annotations

import importlib.metadata
from enum import Enum

PACKAGE = "fairchem-core"


class Host(Enum):
    """A generation of fairchem-core, by what an install command calls it."""

    FAIRCHEM_1 = "fairchem-core 1.10"
    FAIRCHEM_2 = "fairchem-core 2"


def installed_version() -> str | None:
    """Of fairchem-core, if it is installed."""
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_host() -> Host | None:
    """The generation that is installed, whether it works or not."""
    version = installed_version()
    if version is None:
        return None
    return Host.FAIRCHEM_1 if version.startswith("1.") else Host.FAIRCHEM_2


def refusal(what: str, needed: Host) -> str:
    """One line for somebody who asks for what the installed fairchem-core does not have."""
    version = installed_version()
    here = "is not installed" if version is None else f"{version} is installed"
    return f"{what} needs {needed.value}, and {PACKAGE} {here}: see docs/fairchem2.md for an environment of its own"
