"""The checkpoint trained on GAME-Net's FG set that the repository contains: its card, and the example that uses it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fairchem_hdgnn.files import sha256

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks/results/gamenet"


def test_card_describes_the_file() -> None:
    card = (FOLDER / "hdgnn.md").read_text()
    assert sha256(FOLDER / "hdgnn.pt") in card
    assert re.search(r"\| HDGNN on GAME-Net's FG set \| 92 \(82…105\) \|", card)


def test_example_of_the_page_gives_a_plausible_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/evidence.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(example, names)
    energy = names["atoms"].get_potential_energy()
    # The labels of the training set are between -1.61 and 2.41 eV.
    assert -2 < energy < 3
    assert np.isclose(names["total"] - energy, 36 * -5.8997 - 9.1087 - 6.7394 - 4 * 3.7349, atol=0.01)
    # A small shift of the molecule leads to the same relaxed structure.
    names["atoms"].positions[-6:] += [0.3, 0.2, 0.1]
    assert abs(names["atoms"].get_potential_energy() - energy) < 0.5
