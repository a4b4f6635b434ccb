"""Location of the shipped configs, for either fairchem-core."""

from __future__ import annotations

from pathlib import Path


def shipped_configs() -> Path:
    """The folder of shipped configs: inside the package when installed, at the top of a checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parents[1] / "configs"
