"""``python main.py --mode train --config-yml ...``: the ``fairchem`` command line with this plugin's additions."""

from __future__ import annotations

import sys

from fairchem_hdgnn.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
