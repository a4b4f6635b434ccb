"""Which fairchem-core is installed. It can be only one generation: both are imported as ``fairchem``."""

from __future__ import annotations

import importlib.metadata
import warnings
from enum import Enum

PACKAGE = "fairchem-core"

DISTRIBUTIONS = ("fairchem-hdgnn", "fairchem2-hdgnn", "hdgnn-networks")
"""Distribution names of this package: for fairchem-core 1.10, for 2, and without either."""


class Host(Enum):
    """A generation of fairchem-core, by its name in messages."""

    FAIRCHEM_1 = "fairchem-core 1.10"
    FAIRCHEM_2 = "fairchem-core 2"


def installed_version(package: str = PACKAGE) -> str | None:
    """Version of fairchem-core or another package; ``None`` if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def own_distributions() -> list[str]:
    """Those of ``DISTRIBUTIONS`` that are installed; several would overwrite each other's files."""
    return [name for name in DISTRIBUTIONS if installed_version(name) is not None]


def versions() -> dict[str, str]:
    """Versions of the packages that affect a model's numbers; this package under the name of its distribution."""
    found = {name: installed_version(name) for name in (*own_distributions(), PACKAGE, "torch")}
    return {name: version for name, version in found.items() if version is not None}


def installed_host() -> Host | None:
    """The installed generation, whether it works or not."""
    version = installed_version()
    if version is None:
        return None
    return Host.FAIRCHEM_1 if version.startswith("1.") else Host.FAIRCHEM_2


def refusal(what: str, needed: Host) -> str:
    """One-line message for something that the installed fairchem-core does not provide."""
    version = installed_version()
    here = "is not installed" if version is None else f"{version} is installed"
    return f"{what} needs {needed.value}, and {PACKAGE} {here}: see docs/fairchem2.md for a separate environment"


def ignore_jit_script() -> None:
    """Filter torch's warning that fairchem and torch_geometric use ``torch.jit.script``, which users cannot change."""
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)
