"""The checkpoints trained on GAME-Net's FG set that the repository contains: their cards, and the example of use."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from fairchem_hdgnn.files import sha256

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks/results/gamenet"


@pytest.mark.parametrize("model, score", [("HDGNN", "92 (82…105)"), ("eSCN", "89 (78…101)")])
def test_card_describes_the_file(model: str, score: str) -> None:
    card = (FOLDER / f"{model.lower()}.md").read_text()
    assert sha256(FOLDER / f"{model.lower()}.pt") in card
    assert f"| {model} on GAME-Net's FG set | {score} |" in card


@pytest.mark.parametrize("model", ["hdgnn", "escn"])
def test_example_of_the_page_gives_a_plausible_energy(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(import json.*?)```", (ROOT / "docs/evidence.md").read_text(), re.DOTALL)
    assert "hdgnn.pt" in example
    monkeypatch.chdir(ROOT)
    names: dict = {}
    exec(example.replace("hdgnn.pt", f"{model}.pt"), names)
    energy = names["atoms"].get_potential_energy()
    # The labels of the training set are between -1.61 and 2.41 eV.
    assert -2 < energy < 3
    assert np.isclose(names["total"] - energy, 36 * -5.8997 - 9.1087 - 6.7394 - 4 * 3.7349, atol=0.01)
    # A small shift of the molecule leads to the same relaxed structure.
    names["atoms"].positions[-6:] += [0.3, 0.2, 0.1]
    assert abs(names["atoms"].get_potential_energy() - energy) < 0.5
