"""The five folds of the cross-validation that the FG set was published with.

The authors publish a rule instead of lists. Python's generator, seeded with 42, shuffles the names of each family, in
the order of ``groups.dat``. Each family is split into five slices of nearly equal size, and the n-th fold contains the
n-th slice of every family. The rule leaves the order of the folds open. Here they are numbered as in the published
predictions for initial structures: ``predictions_{4k}.npz`` to ``predictions_{4k+3}.npz`` test fold k.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping

import numpy as np

NUM_FOLDS = 5
NUM_SYSTEMS = 3257
SEED = 42

FOLD_OF_SLICE = (4, 0, 3, 1, 2)
"""Published number of the fold that contains the n-th slices."""

DIGEST = "43f9b234fc141cd2d2deaf810a6dd397e8075197e7a78689bfe6a50a65def804"
"""``folds_digest`` of the complete set."""


def published_folds(rows: Iterable[tuple[str, str]], present: Collection[str]) -> dict[str, int]:
    """Fold of each system.

    As in the authors' code, a name with several families has the position of its first row and the family of its last.

    Args:
        rows: name and family of each row of ``groups.dat``, in its order.
        present: names of the available systems; the others are shuffled with them and then removed.

    Returns:
        Name -> fold, 0 to 4.
    """
    families: dict[str, list[str]] = {}
    for name, family in dict(rows).items():
        families.setdefault(family, []).append(name)
    generator = random.Random(SEED)
    folds = {}
    for names in families.values():
        generator.shuffle(names)
        here = [name for name in names if name in present]
        for index, part in enumerate(np.array_split(np.arange(len(here)), NUM_FOLDS)):
            folds.update({here[place]: FOLD_OF_SLICE[index] for place in part})
    return folds


def folds_digest(folds: Mapping[str, int]) -> str:
    """SHA-256 over names and folds, sorted by name, in hex."""
    return hashlib.sha256("".join(f"{name} {folds[name]}\n" for name in sorted(folds)).encode()).hexdigest()
