"""``python -m fairchem_hdgnn.cli``."""

from __future__ import annotations

import sys

from fairchem_hdgnn.cli import main

sys.exit(main())
