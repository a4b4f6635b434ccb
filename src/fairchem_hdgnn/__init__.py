"""HDGNN and eSCN for fairchem-core 1.10. Importing this package registers them with fairchem, and does nothing else.

Where fairchem is missing or broken the networks in :mod:`fairchem_hdgnn.models` still work, for they need torch and
e3nn only; the names below then raise an ImportError that tells the reason.
"""

from __future__ import annotations

__all__ = [
    "ESCN",
    "HDGNN",
    "ESCNBackbone",
    "ESCNEnergyHead",
    "ESCNForceHead",
    "HDGNNBackbone",
    "HDGNNEnergyHead",
    "HDGNNForceHead",
    "SafeLmdbDataset",
    "Trainer",
    "calculator",
]

try:
    import fairchem.core.trainers  # noqa: F401
except Exception as error:  # A broken installation can raise anything.
    _error = error

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        raise ImportError(
            f"fairchem_hdgnn.{name} needs fairchem-core 1.10 in working order ({type(_error).__name__}: {_error}); "
            "run `fairchem-hdgnn doctor`"
        ) from _error
else:
    from fairchem_hdgnn.checks.trainer import Trainer
    from fairchem_hdgnn.host.escn_models import ESCN, ESCNBackbone, ESCNEnergyHead, ESCNForceHead
    from fairchem_hdgnn.host.inference import calculator
    from fairchem_hdgnn.host.models import HDGNN, HDGNNBackbone, HDGNNEnergyHead, HDGNNForceHead
    from fairchem_hdgnn.host.safe_lmdb import SafeLmdbDataset
