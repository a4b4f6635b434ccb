"""Register ``fairchem_hdgnn``'s models when fairchem sets up its imports.

fairchem imports every folder named in ``fairchem/experimental/.include``. An error there would end any run, even one
that does not use this plugin, so it is caught here.
"""

from __future__ import annotations

import logging

try:
    import fairchem_hdgnn  # noqa: F401
except Exception as error:
    logging.getLogger(__name__).warning(
        "fairchem_hdgnn could not be imported, so its models have no short names; run `fairchem-hdgnn doctor`: %r",
        error,
    )
