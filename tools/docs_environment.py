"""Make ``.venv-docs`` and install into it what builds the documentation: ``make docs`` does so first, once.

It needs neither torch nor this package: the pages of the API are read from the source.
"""

from __future__ import annotations

import sys

from install import Environment
from lines import DOCS_PINS, DOCS_PYTHONS, ROOT, text

FOLDER = ROOT / ".venv-docs"


def main() -> None:
    """Install, or exit with one line that says what to do."""
    oldest, _ = DOCS_PYTHONS
    if sys.version_info[:2] < oldest:
        sys.exit(f"docs: needs Python {text(oldest)} or later; name another: make docs PYTHON=python3.11")
    environment = Environment(FOLDER)
    environment.make()
    environment.pip("--group", "docs", pins=DOCS_PINS)


if __name__ == "__main__":
    main()
