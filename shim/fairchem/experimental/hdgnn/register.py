"""Registers ``fairchem_hdgnn``'s models when fairchem sets up its imports.

fairchem imports every folder named in ``fairchem/experimental/.include`` and lets any error there end the run, also a
run that has nothing to do with this plugin; hence the guard.
"""

from __future__ import annotations

import logging

try:
    import fairchem_hdgnn  # noqa: F401
except Exception as error:
    logging.getLogger(__name__).warning(
        "fairchem_hdgnn could not be imported, so its models have no short names here; run `fairchem-hdgnn doctor`: %r",
        error,
    )
