"""HDGNN and eSCN for fairchem-core 1.10. Importing this package registers its models with fairchem.

Where fairchem is not installed, the networks on plain tensors (``fairchem_hdgnn.hdgnn``, ``fairchem_hdgnn.escn``)
still work, and the names below say what is missing.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

__version__ = "0.1.0"

__all__ = ["HDGNN", "HDGNNBackbone", "HDGNNEnergyHead", "HDGNNForceHead"]

if find_spec("fairchem") is not None and find_spec("fairchem.core") is not None:
    from fairchem_hdgnn.integration.models import HDGNN, HDGNNBackbone, HDGNNEnergyHead, HDGNNForceHead
else:

    def __getattr__(name: str) -> Any:
        if name in __all__:
            raise ImportError(f"fairchem_hdgnn.{name} needs fairchem-core 1.10: pip install 'fairchem-core==1.10.*'")
        raise AttributeError(f"module 'fairchem_hdgnn' has no attribute '{name}'")
