"""HDGNN and eSCN for fairchem-core. Importing this package registers them with fairchem 1.10, and does nothing else.

Under fairchem-core 2 models are named by dotted path: nothing is registered, and a name below is imported when it is
asked for. Where fairchem is missing or broken the networks in :mod:`fairchem_hdgnn.models` still work, for they need
torch and e3nn only; the names below then raise an ImportError that tells the reason.
"""

from __future__ import annotations

import importlib

from fairchem_hdgnn.host.which import Host, installed_host, refusal

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

_FAIRCHEM_2 = {
    "HDGNNBackbone": "host.fairchem2.models",
    "HDGNNEnergyHead": "host.fairchem2.models",
    "HDGNNForceHead": "host.fairchem2.models",
    "ESCNBackbone": "host.fairchem2.models",
    "ESCNEnergyHead": "host.fairchem2.models",
    "ESCNForceHead": "host.fairchem2.models",
    "HydraModel": "host.fairchem2.models",
    "OC20Dataset": "host.fairchem2.dataset",
    "calculator": "host.calculator",
}
"""Where a name is found under fairchem-core 2."""

if installed_host() is Host.FAIRCHEM_2:

    def __getattr__(name: str) -> object:
        if name in _FAIRCHEM_2:
            return getattr(importlib.import_module(f"fairchem_hdgnn.{_FAIRCHEM_2[name]}"), name)
        if name in __all__:
            raise ImportError(refusal(f"fairchem_hdgnn.{name}", Host.FAIRCHEM_1))
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

else:
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
        from fairchem_hdgnn.host.fairchem1.inference import calculator
        from fairchem_hdgnn.host.fairchem1.models import (
            ESCN,
            HDGNN,
            ESCNBackbone,
            ESCNEnergyHead,
            ESCNForceHead,
            HDGNNBackbone,
            HDGNNEnergyHead,
            HDGNNForceHead,
        )
        from fairchem_hdgnn.host.fairchem1.safe_lmdb import SafeLmdbDataset
