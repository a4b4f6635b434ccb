"""``convert``: a checkpoint that fairchem wrote, with its own eSCN, becomes one of ours that fairchem reads."""

from __future__ import annotations

import copy
import os
import pathlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fairchem.core.common.utils import load_model_and_weights_from_checkpoint
from fairchem.core.models.escn.escn import eSCN
from fairchem_escn import TINY, cast, fairchem_model, hydra_config, redraw, seeded_frames, systems
from plain_authors_hdgnn import BASE, PlainAuthorsHDGNN, random_weights
from small_networks import clusters
from small_runs import load, train, write_config

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.convert.checkpoints import averaged_weights, convert_checkpoint
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.fairchem1.inference import calculator
from fairchem_hdgnn.models.so3.frames import edge_frames

ATOMS = Atoms("PtCuO", [[0.0, 0, 0], [2.4, 0.3, 0], [0.2, 2.0, 1.1]], cell=[6.0, 6.1, 6.2], pbc=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder with a checkpoint of fairchem's eSCN after a few steps in fairchem's trainer."""
    folder = tmp_path_factory.mktemp("fairchem")
    model = {"name": "escn", **TINY, "regress_forces": False, "use_pbc": True}
    train(write_config(folder, model, trainer="ocp", max_epochs=1), "run")
    return folder


@pytest.fixture
def seeded(monkeypatch) -> None:
    """fairchem's eSCN with the frames that ours has in evaluation."""
    monkeypatch.setattr(eSCN, "_init_edge_rot_mat", lambda self, *args: seeded_frames(*args))


@pytest.mark.usefixtures("seeded")
def test_same_energy_through_both_calculators(trained, tmp_path, capsys):
    out = tmp_path / "ours.pt"
    checkpoint = trained / "checkpoints/run/checkpoint.pt"
    assert main(["convert", "--from", "fairchem-escn", str(checkpoint), str(out)]) == 0
    assert "fairchem_hdgnn.ESCN, " in (printed := capsys.readouterr().out) and "averaged weights (EMA)" in printed
    expected = _energy(calculator(checkpoint, cpu=True))
    assert _energy(calculator(out, cpu=True)) == pytest.approx(expected, rel=1e-5)
    assert _energy(OCPCalculator(checkpoint_path=out, cpu=True, seed=0)) == pytest.approx(expected, rel=1e-5)
    assert load_model_and_weights_from_checkpoint(out).network.config.energy_scale == 0.001


@pytest.mark.usefixtures("seeded")
def test_element_references_go_along(trained, tmp_path):
    checkpoint = load(trained, "run")
    references = torch.linspace(-2.0, 2.0, 101)
    checkpoint["elementrefs"] = {"energy": {"element_references": references}}
    torch.save(checkpoint, tmp_path / "theirs.pt")
    convert_checkpoint("fairchem-escn", tmp_path / "theirs.pt", tmp_path / "ours.pt")
    expected = _energy(calculator(tmp_path / "theirs.pt", cpu=True))
    plain = _energy(calculator(trained / "checkpoints/run/checkpoint.pt", cpu=True))
    assert expected - plain == pytest.approx(float(references[ATOMS.numbers].sum()), abs=1e-4)
    assert _energy(calculator(tmp_path / "ours.pt", cpu=True)) == pytest.approx(expected, rel=1e-5)


def test_raw_and_averaged_weights(trained, tmp_path):
    checkpoint = load(trained, "run")
    averages = averaged_weights(checkpoint, r"sphere_points$|sphharm_weights\.|offset$")
    raw = checkpoint["state_dict"]
    changed = {name for name in raw if not torch.equal(raw[name], averages[name])}
    assert "module.layer_blocks.1.fc1_sphere.weight" in changed and "module.sphere_points" not in changed
    path = trained / "checkpoints/run/checkpoint.pt"
    assert not convert_checkpoint("fairchem-escn", path, tmp_path / "raw.pt", raw_weights=True).averaged
    written = torch.load(tmp_path / "raw.pt", weights_only=True)["state_dict"]
    torch.testing.assert_close(
        written["network.backbone.layers.1.update.first.weight"], raw["module.layer_blocks.1.fc1_sphere.weight"]
    )
    checkpoint["ema"]["shadow_params"].pop()
    torch.save(checkpoint, tmp_path / "damaged.pt")
    with pytest.raises(ConfigError, match="do not fit the order of its weights; use the raw weights"):
        convert_checkpoint("fairchem-escn", tmp_path / "damaged.pt", tmp_path / "new.pt")
    del checkpoint["config"]["model"]
    torch.save(checkpoint, tmp_path / "damaged.pt")
    with pytest.raises(ConfigError, match=r"damaged\.pt: its config has no 'model'"):
        convert_checkpoint("fairchem-escn", tmp_path / "damaged.pt", tmp_path / "new.pt")


def test_hydra_in_the_form_of_older_releases(trained, tmp_path):
    """Weights with the prefixes of DistributedDataParallel, the model's keys beside its name."""
    config = hydra_config(TINY)
    model = fairchem_model(config)
    redraw(model, torch.Generator().manual_seed(0))
    checkpoint = copy.copy(load(trained, "run"))
    checkpoint["ema"] = None
    checkpoint["state_dict"] = {f"module.module.{name}": tensor for name, tensor in model.state_dict().items()}
    checkpoint["config"] = {**checkpoint["config"], "model": "hydra", "model_attributes": config}
    torch.save(checkpoint, tmp_path / "old.pt")
    convert_checkpoint("fairchem-escn", tmp_path / "old.pt", tmp_path / "new.pt")
    ours = load_model_and_weights_from_checkpoint(tmp_path / "new.pt").eval()
    batch = cast(systems((5, 8)), torch.float32)
    torch.testing.assert_close(ours(batch)["forces"], model(batch)["forces"], rtol=1e-4, atol=1e-4)


def test_authors_checkpoint(trained, tmp_path):
    theirs, graph = random_weights(BASE), clusters()
    frames = edge_frames(graph.edge_vec)
    checkpoint = load(trained, "run")
    checkpoint["ema"] = None
    checkpoint["state_dict"] = {f"module.{name}": weight.float() for name, weight in theirs.items()}
    checkpoint["config"]["model"], checkpoint["config"]["model_attributes"] = "hdgnn", BASE
    torch.save(checkpoint, tmp_path / "theirs.pt")
    convert_checkpoint("authors-hdgnn", tmp_path / "theirs.pt", tmp_path / "ours.pt")
    ours = load_model_and_weights_from_checkpoint(tmp_path / "ours.pt").double().eval()
    expected, _ = PlainAuthorsHDGNN(BASE, theirs)(graph, frames)
    with torch.no_grad():
        torch.testing.assert_close(ours.network(*graph.arguments(), frames)["energy"], expected, rtol=1e-4, atol=0)


def test_files_that_cannot_be_converted(trained, tmp_path, capsys):
    path, out = trained / "checkpoints/run/checkpoint.pt", tmp_path / "out.pt"
    out.write_bytes(b"mine")
    _refused(capsys, path, out, "exists already")
    assert out.read_bytes() == b"mine"
    _refused(capsys, tmp_path / "absent.pt", tmp_path / "new.pt", "no such checkpoint")

    checkpoint = load(trained, "run")
    checkpoint["config"]["model"]["lmax_list"], checkpoint["config"]["model"]["mmax_list"] = [2, 1], [1, 1]
    torch.save(checkpoint, tmp_path / "two.pt")
    _refused(capsys, tmp_path / "two.pt", tmp_path / "new.pt", "two.pt: .*only one resolution can be converted")
    checkpoint["config"]["model"] = {"name": "schnet", "hidden_channels": 8, "num_filters": 3}
    torch.save(checkpoint, tmp_path / "schnet.pt")
    _refused(capsys, tmp_path / "schnet.pt", tmp_path / "new.pt", "key 'num_filters' is unknown")

    checkpoint["val_metrics"] = _Malicious(tmp_path / "ran")
    torch.save(checkpoint, tmp_path / "unsafe.pt")
    _refused(capsys, tmp_path / "unsafe.pt", tmp_path / "new.pt", "--trust-checkpoint")
    assert not (tmp_path / "ran").exists() and not (tmp_path / "new.pt").exists()


def test_nothing_is_left_of_a_failed_write(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "save", lambda contents, path: Path(path).write_bytes(b"half") and os.strerror(1 / 0))
    with pytest.raises(ZeroDivisionError):
        convert_checkpoint("fairchem-escn", trained / "checkpoints/run/checkpoint.pt", tmp_path / "new.pt")
    assert not list(tmp_path.iterdir())


class _Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def _refused(capsys, path: Path, out: Path, message: str) -> None:
    assert main(["convert", "--from", "fairchem-escn", str(path), str(out)]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1 and re.search(message, printed), printed


def _energy(calculator: OCPCalculator) -> float:
    atoms = ATOMS.copy()
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    assert np.isfinite(energy)
    return float(energy)
