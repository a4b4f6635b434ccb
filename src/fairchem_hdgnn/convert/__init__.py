"""Convert checkpoints of other implementations to models of this package."""

from __future__ import annotations

from fairchem_hdgnn.convert.authors_hdgnn import from_authors_hdgnn
from fairchem_hdgnn.convert.fairchem_escn import from_fairchem_escn

__all__ = ["from_authors_hdgnn", "from_fairchem_escn"]
