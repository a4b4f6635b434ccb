"""Checkpoints of fairchem-core 2 under 1.10: the same energies, in our commands and after conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_data import write_splits
from fairchem.core.common.relaxation.ase_utils import OCPCalculator
from fc2_after_structures import ENERGIES, FIRST, SECOND, found, structures

from fairchem_hdgnn.cli import main
from fairchem_hdgnn.convert.generations import convert_generation
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.equivariance import measure, open_subject
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.host import inference_files
from fairchem_hdgnn.host.calculator import calculator as network_calculator
from fairchem_hdgnn.host.fairchem1.inference import calculator
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.opening import describe_checkpoint
from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32, tf32_allowed

RESOLUTION = 3e-7
"""Of float32, which is coarser than 1e-6 eV from 8 eV on."""

DATA = Path(__file__).parent / "data"
QUIET = InferenceOptions(cpu=True, progress=False)


def compare(actual: dict[str, dict[str, Any]], expected: dict[str, dict[str, Any]]) -> None:
    for name, of_structure in expected.items():
        assert actual[name]["energy"] == pytest.approx(of_structure["energy"], abs=1e-6, rel=RESOLUTION), name
        if "forces" in of_structure:
            np.testing.assert_allclose(actual[name]["forces"], of_structure["forces"], atol=2e-6)


def hydra_checkpoint(folder: Path) -> Path:
    """``escn.pt`` as a backbone with heads."""
    checkpoint = torch.load(DATA / "escn.pt", weights_only=True)
    plain = read_trained(DATA / "escn.pt")
    keys = {key: value for key, value in checkpoint["config"]["model"].items() if key != "name"}
    names = {
        "network.backbone.": "backbone.backbone.",
        "network.energy_head.": "output_heads.e.readout.",
        "network.force_head.": "output_heads.f.readout.",
    }
    checkpoint["state_dict"] = {
        f"module.{after}{weight[len(before) :]}": tensor
        for weight, tensor in plain.weights.items()
        for before, after in names.items()
        if weight.startswith(before)
    }
    checkpoint["ema"] = None
    checkpoint["config"]["model"] = {
        "name": "hydra",
        "backbone": {"model": "fairchem_hdgnn.ESCNBackbone", **keys},
        "heads": {"e": {"module": "escn_so2_energy_head"}, "f": {"module": "fairchem_hdgnn.ESCNForceHead"}},
    }
    # fairchem names a target after its head.
    for part in (checkpoint["config"]["outputs"], checkpoint["normalizers"]):
        for name, head in (("energy", "e"), ("forces", "f")):
            if name in part:
                part[head] = part.pop(name)
    torch.save(checkpoint, folder / "hydra.pt")
    return folder / "hydra.pt"


@pytest.mark.parametrize("name", FIRST)
def test_recorded_energies_are_still_those_of_1_10(name: str) -> None:
    compare(found(calculator(DATA / name, cpu=True)), json.loads(ENERGIES.read_text())["fairchem1"][name])


@pytest.mark.parametrize("name", SECOND)
def test_same_weights_give_the_energies_of_2(name: str, tmp_path: Path) -> None:
    expected = json.loads(ENERGIES.read_text())["fairchem2"][name]
    compare(found(calculator(DATA / name, cpu=True)), expected)
    out = tmp_path / "checkpoint.pt"
    assert main(["convert", "--from", "fairchem2", "--to", "fairchem1", str(DATA / name), str(out)]) == 0
    compare(found(calculator(out, cpu=True)), expected)
    compare(found(OCPCalculator(checkpoint_path=out, cpu=True, seed=0)), expected)


def test_opening_and_predicting_leave_the_process_as_it_was() -> None:
    """Random numbers and torch's setting for TF32 are those of the caller; predictions are exact all the same."""
    exact = found(network_calculator(DATA / SECOND[0], cpu=True))
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()
    with allow_tf32(True):
        compare(found(network_calculator(DATA / SECOND[0], cpu=True)), exact)
        assert tf32_allowed()
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert str(np.random.get_state()) == str(of_numpy)


@pytest.mark.parametrize("name", FIRST)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    convert_generation("fairchem2", DATA / name, tmp_path / "second.pt")
    convert_generation("fairchem1", tmp_path / "second.pt", tmp_path / "first.pt")
    compare(found(calculator(tmp_path / "first.pt", cpu=True)), found(calculator(DATA / name, cpu=True)))
    assert read_trained(tmp_path / "first.pt").scales["energy"] == read_trained(DATA / name).scales["energy"]


def test_hydra_becomes_plain(tmp_path: Path) -> None:
    """A backbone with heads under 1.10 has the names of 2 in its state dict."""
    hydra = hydra_checkpoint(tmp_path)
    assert read_trained(hydra).weights.keys() == read_trained(DATA / "escn.pt").weights.keys()
    convert_generation("fairchem2", hydra, tmp_path / "second.pt")
    compare(found(calculator(tmp_path / "second.pt", cpu=True)), found(calculator(DATA / "escn.pt", cpu=True)))


def test_equivariance_of_hydra(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data") / "val_id"
    measured = [
        measure(open_subject(str(path), QUIET), data, 3, 2, QUIET)
        for path in (hydra_checkpoint(tmp_path), DATA / "escn.pt")
    ]
    np.testing.assert_allclose(*(differences.energy for differences in measured), rtol=RESOLUTION)
    np.testing.assert_allclose(*(differences.mad for differences in measured), atol=2e-5)


def test_a_default_that_the_config_leaves_out(tmp_path: Path) -> None:
    """eSCN predicts forces unless ``regress_forces`` is false."""
    checkpoint = torch.load(DATA / "escn.pt", weights_only=True)
    assert checkpoint["config"]["model"].pop("regress_forces")
    torch.save(checkpoint, tmp_path / "first.pt")
    trained = read_trained(tmp_path / "first.pt")
    assert trained.outputs == ("energy", "forces") and trained.scales == read_trained(DATA / "escn.pt").scales
    convert_generation("fairchem2", tmp_path / "first.pt", tmp_path / "second.pt")
    convert_generation("fairchem1", tmp_path / "second.pt", tmp_path / "again.pt")
    for name in ("second", "again"):
        compare(found(calculator(tmp_path / f"{name}.pt", cpu=True)), found(calculator(DATA / "escn.pt", cpu=True)))


def test_commands_take_both_generations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_splits(tmp_path / "data")
    paths = [str(DATA / "fairchem2_hdgnn.pt"), str(tmp_path / "first.pt")]
    convert_generation("fairchem1", paths[0], paths[1])
    command = ["evaluate", "--checkpoint", *paths, "--names", "two", "one", "--data", str(root), "--cpu"]
    assert main([*command, "--bootstrap", "5", "--splits", "val_id"]) == 0
    assert "two" in capsys.readouterr().out
    sources = {"val_id": root / "val_id/data.lmdb"}
    two, one = (predict_splits(path, sources, QUIET)["val_id"] for path in paths)
    np.testing.assert_allclose(two.energy, one.energy, atol=1e-6)
    np.testing.assert_array_equal(two.target, one.target)
    assert main(["equivariance", paths[0], str(root / "val_id"), "--systems", "2", "--cpu"]) == 0


def test_wrong_direction_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["convert", "--from", "fairchem2", str(DATA / "escn.pt"), str(tmp_path / "new.pt")]
    assert main(command) == 2
    assert "is already a checkpoint of fairchem1" in (printed := capsys.readouterr().err) and printed.count("\n") == 1
    assert main(["convert", "--from", "fairchem-escn", "--to", "fairchem2", "a.pt", str(tmp_path / "new.pt")]) == 2
    assert "convert to fairchem1 first" in capsys.readouterr().err


def test_labels_survive_two_conversions(tmp_path: Path) -> None:
    checkpoint = torch.load(DATA / "hdgnn_paper.pt", weights_only=True)
    checkpoint["config"]["dataset"]["key_mapping"] = {"y_init": "energy"}
    torch.save(checkpoint, tmp_path / "first.pt")
    convert_generation("fairchem2", tmp_path / "first.pt", tmp_path / "second.pt")
    convert_generation("fairchem1", tmp_path / "second.pt", tmp_path / "again.pt")
    for name in ("first", "second", "again"):
        assert describe_checkpoint(tmp_path / f"{name}.pt").target.label == "y_init", name


def test_normalizer_of_forces_and_element_references_go_along(tmp_path: Path) -> None:
    """Under both generations' readers and through conversions, as in fairchem's own trainer."""
    checkpoint = torch.load(DATA / "escn.pt", weights_only=True)
    references = torch.linspace(-2.0, 2.0, 101)
    checkpoint["normalizers"]["forces"] = {"mean": torch.tensor(0.0), "rmsd": torch.tensor(0.25)}
    checkpoint["elementrefs"] = {"energy": {"element_references": references}}
    torch.save(checkpoint, tmp_path / "first.pt")
    expected = found(calculator(DATA / "escn.pt", cpu=True))
    for name, atoms in structures().items():
        expected[name]["energy"] += float(references[atoms.numbers].sum())
        expected[name]["forces"] = (0.25 * np.array(expected[name]["forces"])).tolist()
    convert_generation("fairchem2", tmp_path / "first.pt", tmp_path / "second.pt")
    convert_generation("fairchem1", tmp_path / "second.pt", tmp_path / "again.pt")
    readers = [(calculator, "first"), (network_calculator, "first"), (calculator, "second"), (calculator, "again")]
    for make, name in readers:
        actual = found(make(tmp_path / f"{name}.pt", cpu=True))
        for structure, values in expected.items():
            assert actual[structure]["energy"] == pytest.approx(values["energy"], abs=2e-5), (make, name)
            np.testing.assert_allclose(actual[structure]["forces"], values["forces"], atol=2e-6)


def test_an_evaluation_says_which_labels_it_takes_for_a_file_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write_splits(tmp_path / "data")
    command = ["evaluate", "--checkpoint", str(DATA / "fairchem2_hdgnn.pt"), "--data", str(root), "--cpu"]
    assert main([*command, "--bootstrap", "5", "--splits", "val_id"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Label: the first of y_relaxed, energy, y in the records; the checkpoint does not name" in printed


def test_only_energies_are_converted_and_calculated(tmp_path: Path) -> None:
    """fairchem 2's file would have neither the name nor the unit of the target."""
    checkpoint = torch.load(DATA / "hdgnn_paper.pt", weights_only=True)
    checkpoint["config"]["model"]["output_name"] = "gap"
    checkpoint["config"]["outputs"] = {"gap": checkpoint["config"]["outputs"].pop("energy")}
    checkpoint["normalizers"] = {"gap": checkpoint["normalizers"].pop("energy")}
    torch.save(checkpoint, tmp_path / "gap.pt")
    with pytest.raises(ConfigError, match=r"gap\.pt: predicts 'gap'; only"):
        convert_generation("fairchem2", tmp_path / "gap.pt", tmp_path / "second.pt")
    for make in (calculator, network_calculator):
        with pytest.raises(ConfigError, match=r"gap\.pt: predicts gap, but ASE's calculators give energies in eV"):
            make(tmp_path / "gap.pt", cpu=True)


def test_a_file_of_fairchem_2_without_averages(monkeypatch: pytest.MonkeyPatch) -> None:
    """As fairchem writes it with ``ema_decay: null``."""
    real = inference_files.load_archive

    def without(*args: Any) -> Any:
        contents = real(*args)
        contents.state["ema_state_dict"] = None
        return contents

    path = DATA / "fairchem2_hdgnn.pt"
    raw = read_trained(path, raw_weights=True)
    monkeypatch.setattr(inference_files, "load_archive", without)
    found = read_trained(path)
    assert not found.averaged and found.weights.keys() == raw.weights.keys()
    assert all(torch.equal(found.weights[name], weight) for name, weight in raw.weights.items())
