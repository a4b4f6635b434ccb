"""The commands of the tutorial on fairchem-core 2 run as they are printed, on small data and with a narrow network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from ase.build import add_adsorbate, fcc111
from fc2_data import SPLITS, is2re, tiny_network
from fc2_data_configs import CONFIGS
from fc2_data_runs import ENVIRONMENT, STOCK
from tutorial_pages import DOCS, blocks, snippets

from fairchem_hdgnn.cli import main

# fairchem and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = DOCS / "tutorials" / "fairchem2.md"
SHORTER = [
    "job.device_type=CPU", "optim.batch_size=4", "optim.eval_batch_size=4", "optim.max_epochs=1",
    "optim.num_workers=0", *tiny_network(),
]  # fmt: skip
"""Appended to trainings."""


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(CONFIGS)
    is2re(Path("data/is2re/10k/train"), 8)
    for index, split in enumerate([*SPLITS[1:], *(each.replace("val", "test") for each in SPLITS[1:])]):
        is2re(Path("data/is2re/all") / split, 3, first=100 * (index + 2))
    done = []
    for _, commands in blocks(PAGE):
        for program, *arguments in commands:
            if arguments[0] in ("download", "doctor"):
                continue
            if program == "fairchem":
                ended = subprocess.run(
                    [STOCK, *arguments, *SHORTER], env=ENVIRONMENT, capture_output=True, text=True, check=False
                )
                assert ended.returncode == 0, (ended.stdout + ended.stderr)[-4000:]
            else:
                assert main([*arguments, *([] if arguments[0] == "convert" else ["--cpu"])]) == 0, arguments
            done.append(arguments[0])
    assert done == ["-c", "evaluate", "predict", "convert"]
    assert len(np.load("predictions/test_id.npz")["energy"]) == 3
    assert Path("checkpoint.pt").is_file()

    shutil.copy("runs/first/checkpoints/final/inference_ckpt.pt", "inference_ckpt.pt")
    atoms = fcc111("Cu", (2, 2, 2), vacuum=6.0, periodic=True)
    add_adsorbate(atoms, "O", 1.2, "fcc")
    (code,) = snippets(PAGE)
    exec(code, {"atoms": atoms})
    assert np.isfinite(atoms.get_potential_energy())
