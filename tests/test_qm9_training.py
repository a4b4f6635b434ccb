"""Every QM9 config trains on molecules of QM9, and predicts its target in its unit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fairchem.core.common.utils import load_config
from qm9_files import some_rows, write_xyz_folder
from small_runs import load, losses, run_here

from fairchem_hdgnn.data.qm9 import Preparation, prepare
from fairchem_hdgnn.data.qm9_scores import score

CONFIGS = Path(__file__).parents[1] / "configs" / "qm9"
PATHS = sorted(path for path in CONFIGS.rglob("*.yml") if not {"_base", "fairchem2"} & set(path.parts))
NUM_MOLECULES = 200
SPLITS = {"train": 168, "val": 15, "test": 17}
SMALLER = {
    f"model.{key}": value
    for key, value in {
        "lmax": 2, "num_layers": 1, "sphere_channels": 8, "hidden_channels": 16, "edge_channels": 16,
        "num_sphere_samples": 32,
    }.items()
}  # fmt: skip
"""In place of the full sizes, which want a GPU; ``small`` keeps its own."""

FEWER = {f"dataset.{split}.{split}_split_settings.first_n": count for split, count in SPLITS.items()}

SHORT = {
    f"optim.{key}": value
    for key, value in {
        "max_epochs": 1, "batch_size": 8, "num_workers": 0, "max_lr": 5e-3,
        "pct_start": 0.2, "ema_decay": 0.8,
    }.items()
}  # fmt: skip
"""One epoch in which the mean of the target at least can be learnt."""


@pytest.fixture(scope="module")
def molecules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qm9")
    source = write_xyz_folder(folder / "xyz", some_rows(NUM_MOLECULES))
    prepare(folder / "lmdb", Preparation(str(source), partial=True, progress=False))
    return folder / "lmdb"


ALIKE = {"h", "homo", "lumo", "u", "u0", "zpve"}
"""Targets whose configs differ only in numbers from those of others with the same unit, which always run."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.heavy if path.stem in ALIKE else ()) for path in PATHS],
    ids=lambda path: str(path.relative_to(CONFIGS)),
)
def test_trains_and_predicts(path: Path, molecules: Path, tmp_path: Path) -> None:
    """One epoch over the 168 training molecules of 200, and errors on the test molecules of the target's size."""
    small = path.parent.name == "small"
    overrides: dict[str, object] = dict(FEWER if small else SMALLER)
    overrides |= {f"dataset.{split}.src": molecules / split / "data.lmdb" for split in ("train", "val", "test")}
    overrides |= SHORT
    target = next(iter(load_config(path)[0]["outputs"]))
    common = ["--config-yml", str(path), "--run-dir", str(tmp_path), "--cpu", "--seed", "1", "--print-every", "1"]
    common += [f"--{key}={value}" for key, value in overrides.items()]
    run_here(["--mode", "train", "--timestamp-id", "run", *common])
    history = losses(tmp_path, "run")
    assert len(history) == 21
    assert np.isfinite(list(history.values())).all()
    checkpoint = tmp_path / "checkpoints/run/best_checkpoint.pt"
    assert all(value.isfinite().all() for value in load(tmp_path, "run")["state_dict"].values())
    run_here(["--mode", "predict", "--timestamp-id", "test", "--checkpoint", str(checkpoint), *common])
    (predictions,) = (tmp_path / "results/test").glob("*_predictions.npz")
    (scores,) = score(predictions, molecules)
    assert (scores.target.name, scores.split) == (target, "test")
    assert 0 < scores.mae < 3 * scores.mean_predictor_mae
