"""``fairchem-hdgnn equivariance``: what it measures, for checkpoints and for configs of every variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from evaluation_data import make_records, schnet_config, train, write_splits
from fairchem.core.datasets import data_list_collater
from scipy.spatial.transform import Rotation
from small_networks import randomise
from small_runs import TINY_HDGNN

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.evaluation.equivariance import Differences, measure, open_subject
from fairchem_hdgnn.evaluation.inference import InferenceOptions

QUIET = InferenceOptions(cpu=True, progress=False)
UNIT = 2.5
NUM_SYSTEMS = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_lmdb(folder, make_records(NUM_SYSTEMS, 0, 0))
    return folder / "data.lmdb"


def write_config(folder: Path, **model: Any) -> str:
    config = schnet_config(folder)
    config["model"] = {**TINY_HDGNN, **model}
    config["dataset"]["train"]["transforms"]["normalizer"]["energy"]["stdev"] = UNIT
    path = folder / f"{'_'.join(map(str, model.values()))}.yml".replace("/", "")
    path.write_text(yaml.safe_dump(config))
    return str(path)


def differences(folder: Path, data: Path, num_rotations: int = 2, **model: Any) -> Differences:
    """Of a model with large random weights: at initialisation all effects are small."""
    subject = open_subject(write_config(folder, **model), QUIET)
    randomise(subject.model)
    return measure(subject, data, NUM_SYSTEMS, num_rotations, QUIET)


@pytest.mark.parametrize("message", ["hybrid", "linear", "fully_tp", "unrestricted"])
def test_variants(message, data, tmp_path):
    found = differences(tmp_path, data, message=message, preset="authors", num_sphere_samples=100)
    spread = found.energy.std()
    assert len(found.energy) == NUM_SYSTEMS and spread > 0
    if message == "hybrid":
        assert min(found.frame_noise.mean(), found.rotation.mean(), found.mad.mean()) > 5e-4
    else:
        assert found.frame_noise.max() < 1e-4 * spread
        # Frames have no effect, so turning them along or not is the same.
        np.testing.assert_allclose(found.mad, found.rotation, atol=1e-4 * spread)
        if message == "unrestricted":
            assert found.rotation.mean() > 1e-4
        else:
            assert found.rotation.mean() < 0.05 * spread


def test_mad_is_that_of_turned_structures(data, tmp_path):
    """Against the model on records whose positions and cells are turned."""
    subject = open_subject(write_config(tmp_path, frames="fixed", max_neighbors=200), QUIET)
    found = measure(subject, data, 1, 1, QUIET)
    turn = torch.tensor(Rotation.random(1, random_state=np.random.default_rng(0)).as_matrix()[0]).float()
    energies = []
    for matrix in (torch.eye(3), turn):
        record = make_records(NUM_SYSTEMS, 0, 0)[0]
        record.pos, record.cell = record.pos @ matrix.T, record.cell @ matrix.T
        with torch.no_grad():
            energies.append(subject.model(data_list_collater([record], otf_graph=True))["energy"])
    change = float((energies[1] - energies[0]).abs()) * UNIT
    assert change > 1e-3
    assert found.mad[0] == pytest.approx(change, rel=1e-3)
    assert found.energy[0] == pytest.approx(float(energies[0]) * UNIT, rel=1e-4)


def test_averaging_frames_lowers_their_noise(data, tmp_path):
    single = differences(tmp_path, data, num_rotations=4)
    averaged = differences(tmp_path, data, num_rotations=4, frame_average=6)
    assert averaged.frame_noise.mean() < 0.75 * single.frame_noise.mean()


def test_command_on_a_checkpoint_and_a_config(data, tmp_path, capsys):
    root = write_splits(tmp_path / "splits")
    config = schnet_config(root)
    config["model"], config["trainer"] = dict(TINY_HDGNN), "ocp"
    config["dataset"]["train"]["transforms"]["normalizer"]["energy"]["stdev"] = UNIT
    checkpoint = str(train(tmp_path, config, "tiny") / "checkpoint.pt")
    untrained, out = write_config(tmp_path, message="linear"), tmp_path / "mad.json"
    arguments = [checkpoint, untrained, str(root / "val_id"), "--systems", "4", "--rotations", "2"]
    assert main(["equivariance", *arguments, "--cpu", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "frame noise" in printed and "energy in meV" in printed and "random weights" in printed
    written = json.loads(out.read_text())
    assert (written["systems"], written["unit"]) == (4, "meV")
    found = measure(open_subject(checkpoint, QUIET), root / "val_id", 4, 2, QUIET)
    for key in ("mad", "frame_noise", "rotation"):
        expected = 1000 * getattr(found, key).mean()
        assert written["models"][checkpoint][key] == pytest.approx(expected, rel=1e-4)
        assert expected > 0


def test_heads_of_a_config_are_random(data: Path) -> None:
    """With the config's own ``readout_init: zero``, all energies would be 0."""
    found = measure(open_subject("hdgnn:oc20/is2re/small/escn_so2.yml", QUIET), data, 2, 2, QUIET)
    assert found.mad.min() > 0 and found.energy.std() > 0


def test_gaps_are_in_their_own_unit(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """QM9's, in meV, with the normalizer of the output that the model has."""
    config = yaml.safe_load(Path(write_config(tmp_path, output_name="gap")).read_text())
    config["dataset"]["train"]["transforms"]["normalizer"] = {"gap": {"mean": 0.0, "stdev": UNIT}}
    gap, energy = tmp_path / "gap.yml", write_config(tmp_path)
    gap.write_text(yaml.safe_dump(config))
    found = measure(open_subject(str(gap), QUIET), data, 2, 1, QUIET)
    expected = measure(open_subject(energy, QUIET), data, 2, 1, QUIET)
    np.testing.assert_allclose(found.energy, expected.energy)
    out = tmp_path / "gap.json"
    assert main(["equivariance", str(gap), str(data), "--systems", "2", "--cpu", "--out", str(out)]) == 0
    written = json.loads(out.read_text())
    assert written["unit"] == "meV" and written["models"][str(gap)]["spread"] == pytest.approx(found.energy.std())
    capsys.readouterr()
    assert main(["equivariance", str(gap), energy, str(data), "--cpu"]) == 2
    assert "gap.yml predicts in meV, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["absent.pt", "{data}"], "absent.pt: no such checkpoint"),
        (["{config}", "absent.lmdb"], "absent.lmdb: no such LMDB file"),
        (["{schnet}", "{data}"], "its model is a SchNetWrap"),
        (["{config}", "{data}", "--rotations", "0"], "--rotations 0: must be at least 1"),
        (["{config}", "{data}", "--num-gpus", "2"], "--num-gpus 2: this command uses one"),
        (
            ["{config}", "{data}", "--data-format", "ase-db"],
            "fairchem has no data format 'ase-db'; did you mean 'ase_db'?",
        ),
        (["{config}", "{data}", "--set", "lmx=2"], "unknown key 'lmx'; did you mean 'lmax'?"),
    ],
)
def test_bad_input_is_one_line(arguments, reason, data, tmp_path, capsys):
    schnet = tmp_path / "schnet.yml"
    schnet.write_text(yaml.safe_dump(schnet_config(tmp_path)))
    places = {"data": data, "config": write_config(tmp_path), "schnet": schnet}
    assert main(["equivariance", *[argument.format(**places) for argument in arguments], "--cpu"]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fairchem-hdgnn equivariance: error: ") and reason in error
