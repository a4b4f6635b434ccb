"""Checkpoints that stock fairchem-core 2 wrote, in our commands and in its calculator; the same weights under 1.10."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_tf32 import EmulatedTF32
from fairchem.core import FAIRChemCalculator
from fc2_after_structures import structures
from fc2_after_training import train

import fairchem_hdgnn
from fairchem_hdgnn.cli import main
from fairchem_hdgnn.convert.generations import convert_generation
from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.npz import read_npz
from fairchem_hdgnn.data.records import atoms_to_record
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.inference_files import FIELDS, is_inference_file, read_inference_file

# fairchem and what it imports warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

RESOLUTION = 3e-7
"""Of float32, which is coarser than 1e-6 eV from 8 eV on."""

DATA = Path(__file__).parents[1] / "data"
FIRST: dict[str, Any] = json.loads((DATA / "generations.json").read_text())["fairchem1"]
"""Checkpoint of 1.10 -> structure -> energy (eV) and forces (eV/Å) there."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What stock ``fairchem -c`` wrote."""
    return train("hdgnn", tmp_path_factory.mktemp("training"))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labelled splits of slabs in OC20's layout, and one without labels."""
    folder = tmp_path_factory.mktemp("lmdb")
    random = np.random.default_rng(0)
    for split in ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"):
        (folder / split).mkdir()
        records = []
        for sid in range(3):
            atoms = structures()["slab"]
            atoms.rattle(0.1, seed=int(random.integers(1000)))
            atoms.set_tags([1] * 12 + [2])
            record = atoms_to_record(atoms, sid)
            record.y_relaxed = float(random.normal())
            records.append(record)
        write_lmdb(folder / split, records)
    return folder


def stock(path: Path, mode: str = "batch", **options: Any) -> FAIRChemCalculator:
    return FAIRChemCalculator.from_model_checkpoint(str(path), inference_settings=mode, device="cpu", **options)


def energies(calculator: Any, names: tuple[str, ...] = ("slab", "skewed", "outside", "molecule")) -> list[float]:
    found = []
    for name in names:
        atoms = structures()[name]
        atoms.calc = calculator
        found.append(atoms.get_potential_energy())
    return found


@pytest.mark.parametrize("name", FIRST)
def test_same_weights_give_the_energies_of_1_10(name: str, tmp_path: Path) -> None:
    out = tmp_path / "inference_ckpt.pt"
    assert main(["convert", "--from", "fairchem1", "--to", "fairchem2", str(DATA / name), str(out)]) == 0
    calculator = stock(out)
    for structure, expected in FIRST[name].items():
        atoms = structures()[structure]
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(expected["energy"], abs=1e-6, rel=RESOLUTION), structure
        if "forces" in expected:
            np.testing.assert_allclose(atoms.get_forces(), expected["forces"], atol=2e-6)
    ours = fairchem_hdgnn.calculator(DATA / name, cpu=True)
    np.testing.assert_allclose(
        energies(ours), [each["energy"] for each in FIRST[name].values()], atol=1e-6, rtol=RESOLUTION
    )


def test_stock_checkpoint_in_both_calculators(trained: Path) -> None:
    served, ours = energies(stock(trained)), energies(fairchem_hdgnn.calculator(trained, cpu=True))
    assert np.ptp(served) > 1e-3
    np.testing.assert_allclose(ours, served, atol=1e-6)
    raw = read_trained(trained, raw_weights=True)
    averaged = read_trained(trained)
    assert any(not torch.equal(raw.weights[name], averaged.weights[name]) for name in raw.weights)


def test_default_mode_and_seeds_change_no_energy(trained: Path) -> None:
    """Compiled, with TF32 asked for: frames are drawn from the structure, whatever fairchem's seed is."""
    plain = energies(stock(trained), ("slab", "molecule"))
    compiled = stock(trained, "default")
    np.testing.assert_allclose(energies(compiled, ("slab", "molecule")), plain, atol=1e-5)
    compiled.predictor.set_seed(7)
    np.testing.assert_allclose(energies(compiled, ("molecule", "slab"))[::-1], plain, atol=1e-5)
    np.testing.assert_allclose(energies(stock(trained, "traineval"), ("slab", "molecule")), plain, atol=1e-6)


def test_geometry_is_exact_under_fairchems_tf32(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairchem.core.units.mlip_unit.api.inference import InferenceSettings  # noqa: PLC0415

    seen = []
    backbone = fairchem_hdgnn.HDGNNBackbone

    def recorded(self: Any, data: Any) -> Any:
        assert torch.get_float32_matmul_precision() == "high"
        with EmulatedTF32() as emulation:
            graph = plain_graph(self, data)
        assert not emulation.in_tf32
        seen.append(graph.edge_vec)
        return graph

    plain_graph = backbone.plain_graph
    calculator = FAIRChemCalculator.from_model_checkpoint(
        str(trained), inference_settings=InferenceSettings(tf32=True), device="cpu"
    )
    monkeypatch.setattr(backbone, "plain_graph", recorded)
    energies(calculator, ("skewed",))
    assert len(seen) == 1


def test_commands_on_a_stock_checkpoint(
    trained: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--checkpoint", str(trained), "--data", str(root), "--cpu"]
    assert main(["evaluate", *common, "--bootstrap", "10", "--out", str(tmp_path / "e")]) == 0
    assert "HDGNN (final)" in capsys.readouterr().out
    report = json.loads((tmp_path / "e/table.json").read_text())
    splits = ["val_id", "val_ood_ads", "val_ood_cat", "val_ood_both"]
    assert main(["predict", *common, "--splits", *splits, "--out", str(tmp_path / "p")]) == 0
    predicted = read_npz(tmp_path / "p/val_id.npz")
    labels = _labels(root / "val_id")
    mae = 1000 * np.abs(predicted["energy"] - labels).mean()
    assert report["scores"]["mae"]["HDGNN (final)"]["val_id"]["value"] == pytest.approx(mae, rel=1e-4)
    files = [
        item for split in splits for item in (f"--{split[4:].replace('_', '-')}", str(tmp_path / f"p/{split}.npz"))
    ]
    out = tmp_path / "submission.npz"
    assert main(["make-submission", *files, "--data", str(root), "--prefix", "val", "--out", str(out)]) == 0
    assert (
        main(["equivariance", str(trained), str(root / "val_id"), "--systems", "2", "--rotations", "1", "--cpu"]) == 0
    )
    assert "frame noise" in capsys.readouterr().out


def _labels(folder: Path) -> np.ndarray:
    from fairchem_hdgnn.data.reading import Records  # noqa: PLC0415

    return np.array([record.y_relaxed for record in Records(folder)])


def test_there_and_back(trained: Path, tmp_path: Path) -> None:
    convert_generation("fairchem1", trained, tmp_path / "first.pt")
    convert_generation("fairchem2", tmp_path / "first.pt", tmp_path / "second.pt")
    before, after = read_trained(trained), read_trained(tmp_path / "second.pt")
    assert after.scales["energy"] == pytest.approx(before.scales["energy"], rel=1e-6)
    assert before.weights.keys() == after.weights.keys()
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in before.weights)
    np.testing.assert_allclose(energies(stock(tmp_path / "second.pt")), energies(stock(trained)), atol=1e-6)
    with pytest.raises(ConfigError, match=r"is already a checkpoint of fairchem2"):
        convert_generation("fairchem2", trained, tmp_path / "new.pt")
    with pytest.raises(DataError, match="exists already"):
        convert_generation("fairchem1", trained, tmp_path / "first.pt")


def test_references_of_elements_go_along(tmp_path: Path) -> None:
    checkpoint = torch.load(DATA / "escn.pt", weights_only=True)
    references = torch.linspace(-2.0, 2.0, 101)
    checkpoint["elementrefs"] = {"energy": {"element_references": references}}
    torch.save(checkpoint, tmp_path / "with.pt")
    for name, path in (("plain", DATA / "escn.pt"), ("with", tmp_path / "with.pt")):
        convert_generation("fairchem2", path, tmp_path / f"{name}2.pt")
    plain, with_references = (
        energies(stock(tmp_path / f"{name}2.pt"), ("slab", "molecule")) for name in ("plain", "with")
    )
    expected = [float(references[structures()[name].numbers].sum()) for name in ("slab", "molecule")]
    np.testing.assert_allclose(np.subtract(with_references, plain), expected, atol=1e-5)
    ours = energies(fairchem_hdgnn.calculator(tmp_path / "with2.pt", cpu=True), ("slab", "molecule"))
    np.testing.assert_allclose(ours, with_references, atol=1e-5)


class Exploit:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit('ran code of the checkpoint')",))


def test_checkpoint_with_code_is_refused(trained: Path, tmp_path: Path) -> None:
    from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint  # noqa: PLC0415

    contents = read_inference_file(trained)
    fields = dict(zip(FIELDS, (contents.model, contents.weights, contents.averages, contents.tasks)))
    torch.save(MLIPInferenceCheckpoint(**{**fields, "model_config": {"backbone": Exploit()}}), tmp_path / "evil.pt")
    assert is_inference_file(tmp_path / "evil.pt")
    with pytest.raises(DataError, match=r"contains a pickled .*exec, .*--trust-checkpoint"):
        read_inference_file(tmp_path / "evil.pt")
    fields["model_config"] = {**contents.model, "backbone": {"model": "uma_backbone"}}
    torch.save(MLIPInferenceCheckpoint(**fields), tmp_path / "uma.pt")
    with pytest.raises(ConfigError, match=r"'uma_backbone' is not one of this package"):
        read_trained(tmp_path / "uma.pt")
    (tmp_path / "bad.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(DataError, match=r"bad\.pt: not a PyTorch checkpoint"):
        read_trained(tmp_path / "bad.pt")


def test_old_config_and_other_sources_are_one_line(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(DATA / "escn.pt", weights_only=True)
    checkpoint["config"] = {"model": "escn_so2", "model_attributes": {}}
    torch.save(checkpoint, tmp_path / "old.pt")
    with pytest.raises(ConfigError, match=r"format before 2024; open it under fairchem-core 1\.10"):
        read_trained(tmp_path / "old.pt")
    assert main(["convert", "--from", "fairchem-escn", str(trained), str(tmp_path / "x.pt")]) == 2
    assert "needs fairchem-core 1.10" in (printed := capsys.readouterr().err) and printed.count("\n") == 1
