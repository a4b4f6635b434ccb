"""Which fairchem-core is installed. Two generations of it cannot be: both are imported as ``fairchem``."""

from __future__ import annotations

import importlib.metadata
from enum import Enum

PACKAGE = "fairchem-core"

DISTRIBUTIONS = ("fairchem-hdgnn", "fairchem2-hdgnn", "hdgnn-networks")
"""What this package is installed as: for fairchem-core 1.10, for 2, and without either."""


class Host(Enum):
    """A generation of fairchem-core, by what an install command calls it."""

    FAIRCHEM_1 = "fairchem-core 1.10"
    FAIRCHEM_2 = "fairchem-core 2"


def installed_version(package: str = PACKAGE) -> str | None:
    """Of fairchem-core or another package, if it is installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def own_distributions() -> list[str]:
    """Those of ``DISTRIBUTIONS`` that are installed; more than one overwrite each other's files."""
    return [name for name in DISTRIBUTIONS if installed_version(name) is not None]


def versions() -> dict[str, str]:
    """Of what has a part in a model's numbers; this package's by the name of its distribution."""
    found = {name: installed_version(name) for name in (*own_distributions(), PACKAGE, "torch")}
    return {name: version for name, version in found.items() if version is not None}


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
