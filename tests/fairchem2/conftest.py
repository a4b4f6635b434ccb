"""Data sets that several tests train on."""

from __future__ import annotations

from pathlib import Path

import pytest
from fc2_data import SPLITS, is2re


@pytest.fixture(scope="session")
def oc20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an LMDB of 24 systems for training and one of 5 for each validation split."""
    folder = tmp_path_factory.mktemp("oc20")
    for index, split in enumerate(SPLITS):
        is2re(folder / split, 5 if index else 24, first=100 * (index + 1))
    return folder
