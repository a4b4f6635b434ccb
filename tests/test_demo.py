"""The demonstration: what it trains, and what it says when that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.demo.build import build_demo_data
from fairchem_hdgnn.errors import UserError
from fairchem_hdgnn.integration.demo import CONFIG, Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    build_demo_data(folder / "data", train=8, val=2, test=0, seed=1, workers=1)
    return folder


def test_the_whole_way(folder: Path, capsys: pytest.CaptureFixture) -> None:
    """On eight systems, which teach nothing, all files appear, and the second time nothing is trained."""
    assert main(["demo", "--out", str(folder)]) == 0
    printed = capsys.readouterr().out
    training = Training(folder)
    assert training.finished
    assert "HDGNN" in printed
    assert "median baseline" in printed
    for path in ("submission.npz", "results/parity.png", "train.log"):
        assert (folder / path).stat().st_size > 0
    trained_at = training.checkpoint.stat().st_mtime_ns
    assert main(["demo", "--out", str(folder)]) == 0
    assert training.checkpoint.stat().st_mtime_ns == trained_at


def test_other_data_are_another_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"sizes": {"train": 8}}')
    assert Training(tmp_path).run_id != Training(folder).run_id
    assert Training(folder).run_id == Training(folder).run_id
    assert not Training(tmp_path).finished


def test_failed_training_names_reason_and_log(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"sizes": {"train": 8}}')
    training = Training(tmp_path)
    with pytest.raises(UserError, match=r"status \d+: .*train/data\.lmdb.*train\.log"):
        training.run()
    assert not training.finished


def test_command_names_the_shipped_config(folder: Path) -> None:
    command = Training(folder).command
    assert command[:3] == ["fairchem", "--mode", "train"]
    assert command[command.index("--config-yml") + 1].endswith(CONFIG)
