"""HDGNN and eSCN for fairchem-core.

Importing this package registers models, trainer and data set with fairchem 1.10, and does nothing else. Under
fairchem-core 2 models are named by dotted path: nothing is registered, and each name below is imported on first use. If
fairchem is missing or broken, the networks in :mod:`fairchem_hdgnn.models` still work, because they need only torch,
e3nn, numpy and jaxtyping; the names below then raise an ImportError with the reason.
"""

from __future__ import annotations

import importlib
import warnings

from fairchem_hdgnn.host.which import Host, ignore_jit_script, installed_host, refusal

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
"""Public name -> module that defines it, under fairchem-core 2."""

if installed_host() is Host.FAIRCHEM_2:
    _FAIRCHEM_1 = set(__all__) - set(_FAIRCHEM_2)
    __all__ = list(_FAIRCHEM_2)

    def __getattr__(name: str) -> object:
        if name in _FAIRCHEM_2:
            return getattr(importlib.import_module(f"fairchem_hdgnn.{_FAIRCHEM_2[name]}"), name)
        if name in _FAIRCHEM_1:
            raise ImportError(refusal(f"fairchem_hdgnn.{name}", Host.FAIRCHEM_1))
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

else:
    try:
        with warnings.catch_warnings():
            ignore_jit_script()
            import fairchem.core.trainers  # noqa: F401
    except Exception as error:  # A broken installation can raise anything.
        _error = error

        def __getattr__(name: str) -> object:
            if name not in __all__:
                raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
            raise ImportError(
                f"fairchem_hdgnn.{name} needs a working fairchem-core 1.10 ({type(_error).__name__}: {_error}); "
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

        def __getattr__(name: str) -> object:
            if name in _FAIRCHEM_2:
                raise ImportError(refusal(f"fairchem_hdgnn.{name}", Host.FAIRCHEM_2))
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
