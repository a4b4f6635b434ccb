"""HDGNN and eSCN for fairchem-core 1.10. Importing this package registers them with fairchem.

Where fairchem is missing or broken the networks in ``fairchem_hdgnn.hdgnn`` and ``fairchem_hdgnn.escn`` still work, for
they need torch and e3nn only; the names below then raise an ImportError that tells the reason.
"""

from __future__ import annotations

import importlib.util
import warnings

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
    from fairchem_hdgnn.data.safe_lmdb import SafeLmdbDataset
    from fairchem_hdgnn.integration import excepthook
    from fairchem_hdgnn.integration.calculator import calculator
    from fairchem_hdgnn.integration.escn_models import ESCN, ESCNBackbone, ESCNEnergyHead, ESCNForceHead
    from fairchem_hdgnn.integration.models import HDGNN, HDGNNBackbone, HDGNNEnergyHead, HDGNNForceHead
    from fairchem_hdgnn.integration.run_ids import warn_when_resuming
    from fairchem_hdgnn.integration.trainer import Trainer
except Exception as error:
    _reason = error
    if importlib.util.find_spec("fairchem") is not None:
        warnings.warn(
            f"fairchem_hdgnn could not register with fairchem ({type(error).__name__}: {error}); "
            "run `fairchem-hdgnn doctor`",
            RuntimeWarning,
            stacklevel=2,
        )

    def __getattr__(name: str) -> object:
        if name in __all__:
            raise ImportError(
                f"fairchem_hdgnn.{name} needs fairchem-core 1.10 in working order; run `fairchem-hdgnn doctor`"
            ) from _reason
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
else:
    excepthook.install()
    warn_when_resuming()
