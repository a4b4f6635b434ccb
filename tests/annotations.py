"""How annotations are checked in tests: as the type checker reads them, so that an int is a float too."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
