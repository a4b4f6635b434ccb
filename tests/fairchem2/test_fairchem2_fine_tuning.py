"""Trainings under fairchem-core 2 that start from another model's weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from fairchem.core.units.mlip_unit.utils import load_inference_model
from fc2_data_runs import train

from fairchem_hdgnn import HydraModel
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.generations import read_trained

MODEL = "+runner.train_eval_unit.model"
STILL = ("optim.lr=1e-12", "optim.weight_decay=0", "optim.max_epochs=1")
FIRST = Path(__file__).parents[1] / "data" / "hdgnn_paper.pt"
"""A checkpoint of fairchem-core 1.10."""


@pytest.fixture(scope="module")
def trained(oc20: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The averaged weights of a training."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, oc20, "first", "optim.max_epochs=1")
    return folder / "first" / "checkpoints" / "final" / "inference_ckpt.pt"


@pytest.mark.parametrize("heads", ["kept", "fresh"])
def test_start(trained: Path, oc20: Path, tmp_path: Path, heads: str) -> None:
    """What comes out opens without the file, here and under fairchem."""
    start = tmp_path / "start.pt"
    start.write_bytes(trained.read_bytes())
    printed = train(tmp_path, oc20, "second", f"{MODEL}.init_from={start}", f"{MODEL}.init_heads={heads}", *STILL)
    start.unlink()
    path = tmp_path / "second" / "checkpoints" / "final" / "inference_ckpt.pt"
    before, after = read_trained(trained).weights, read_trained(path).weights
    same = {name for name in before if torch.allclose(before[name], after[name], rtol=0, atol=1e-8)}
    changed = {name for name in before.keys() - same if before[name].dim() > 0}
    assert all("energy_head" in name for name in changed)
    assert bool(changed) is (heads == "fresh")
    assert ("head was trained with mean 0.5, rmsd 1" in printed) is (heads == "kept")
    model, _ = load_inference_model(str(path))
    assert model.backbone is not None


def test_another_model() -> None:
    backbone = {"model": "fairchem_hdgnn.HDGNNBackbone", "lmax": 1, "lmax_metp": 1, "num_layers": 1}
    heads = {"energy": {"module": "fairchem_hdgnn.HDGNNEnergyHead"}}
    with pytest.raises(DataError, match=r"hdgnn_paper.pt: its weights do not match this config's model \(model\.\w+: "):
        HydraModel(backbone=backbone, heads=heads, init_from=str(FIRST))
    with pytest.raises(ConfigError, match="init_heads: is 'new'; give kept or fresh"):
        HydraModel(backbone=backbone, heads=heads, init_from=str(FIRST), init_heads="new")


def test_freezing(trained: Path, oc20: Path, tmp_path: Path) -> None:
    train(
        tmp_path, oc20, "frozen", f"{MODEL}.init_from={trained}", f"{MODEL}.freeze_backbone=true", "optim.max_epochs=1"
    )
    after = read_trained(tmp_path / "frozen" / "checkpoints" / "final" / "inference_ckpt.pt").weights
    for name, weight in read_trained(trained).weights.items():
        assert torch.equal(weight, after[name]) is ("backbone" in name), name


def test_normalizer_and_element_references_of_the_file_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """fairchem's tasks have their own, which the kept heads do not fit, even if the file has no normalizer."""
    checkpoint = torch.load(FIRST, weights_only=True)
    references = torch.zeros(101)
    references[[8, 29]] = torch.tensor([-5.0, -3.5])
    checkpoint["elementrefs"] = {"energy": {"element_references": references}}
    checkpoint["normalizers"] = {}
    path = tmp_path / "total.pt"
    torch.save(checkpoint, path)
    backbone = {"model": "fairchem_hdgnn.HDGNNBackbone", **read_trained(path).keys}
    heads = {"energy": {"module": "fairchem_hdgnn.HDGNNEnergyHead"}}
    HydraModel(backbone=backbone, heads=heads, init_from=str(path))
    assert "energy head was trained with element references, eV: O -5, Cu -3.5; set the task's to these" in caplog.text
    assert "energy head was trained with mean 0, rmsd 1; set the task's normalizer to these" in caplog.text
