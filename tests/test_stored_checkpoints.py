"""Checkpoints of earlier releases load for ever and give the energies and forces that they gave then."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ase import Atoms
from small_networks import relative_error
from small_runs import load, train, write_config
from torch import Tensor
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.convert.checkpoints import convert_checkpoint
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host import checkpoints
from fairchem_hdgnn.host.checkpoints import MODEL_VERSION, read_checkpoint
from fairchem_hdgnn.host.fairchem1.inference import calculator, inference_trainer

DATA = Path(__file__).parent / "data"
RECORDED: dict[str, dict[str, Any]] = json.loads((DATA / "outputs.json").read_text())
"""Checkpoint -> ``float32``, of the calculator (eV, eV/Å), and ``float64``, of the network alone."""

# Whole thousandths, as seeded frames round edge vectors to them, and no two neighbours of an atom equally far.
ATOMS = Atoms(
    "Cu3PtOCH",
    [
        [0.113, 0.271, 0.052], [2.487, 0.194, 0.318], [1.206, 2.193, 0.137], [3.741, 2.331, 0.409],
        [1.378, 1.072, 2.161], [2.529, 1.447, 3.017], [3.188, 0.561, 3.462],
    ],
    cell=[[5.103, 0.0, 0.0], [0.317, 4.907, 0.0], [0.0, 0.211, 9.209]],
    pbc=[True, True, False],
)  # fmt: skip

SIZES = {
    "num_layers": 2, "sphere_channels": 2, "hidden_channels": 5, "edge_channels": 3, "max_num_elements": 80,
    "num_sphere_samples": 16, "max_neighbors": 8, "cutoff": 4.0, "otf_graph": True,
    "distance_resolution": 0.44,  # puts the centres of the distance basis on whole halves, exact in float32
}  # fmt: skip
HDGNN = {**SIZES, "name": "fairchem_hdgnn.HDGNN", "lmax": 3, "invariant_channels": 4, "near_neighbors": 4}
MODELS: dict[str, dict[str, Any]] = {
    "hdgnn_paper": {**HDGNN, "frame_average": 2},
    "hdgnn_authors": {
        **HDGNN, "preset": "authors", "num_resolutions": 2, "lmax_far": 2, "hidden_channels_far": 3,
        "antipodal": "top_degree_unflipped", "regress_forces": True,
    },
    "escn": {**SIZES, "name": "fairchem_hdgnn.ESCN", "lmax": 2, "mmax": 1, "regress_forces": True},
}  # fmt: skip


def energy_and_forces(path: Path) -> dict[str, dict[str, Any]]:
    """What a checkpoint gives for :data:`ATOMS`; its averaged weights (EMA) in float32, and cast to float64."""
    atoms = ATOMS.copy()
    atoms.calc = calculator(path, cpu=True)
    single = {"energy": atoms.get_potential_energy()}
    model = atoms.calc.trainer.model.double().eval()
    if model.regress_forces:
        single["forces"] = atoms.get_forces().tolist()
    record = Data(
        atomic_numbers=torch.tensor(ATOMS.numbers),
        pos=torch.tensor(ATOMS.positions),
        cell=torch.tensor(ATOMS.cell.array)[None],
        pbc=torch.tensor(ATOMS.pbc)[None],
        natoms=len(ATOMS),
    )
    with torch.no_grad():
        double = {name: value.tolist() for name, value in model(Batch.from_data_list([record])).items()}
    return {"float32": single, "float64": double}


def moved(tensors: list[Tensor]) -> list[Tensor]:
    """Away from where few steps leave them, and as views of one storage, which takes less room in a file."""
    sizes = [tensor.numel() for tensor in tensors]
    noise = 0.6 * torch.randn(sum(sizes), generator=torch.Generator().manual_seed(len(sizes)))
    parts = (torch.cat([tensor.flatten() for tensor in tensors]) + noise).split(sizes)
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors)]


def make(folder: Path) -> None:
    """How the files came about: each model trained for a few steps, and stored with what loading needs.

    Those here are of release 0.1.0, before frames lost their count of draws. They stay; another layout of parameters
    gets files of its own.
    """
    outputs = {}
    for name, model in MODELS.items():
        path = write_config(folder / name, model, max_epochs=1)
        if model.get("regress_forces"):
            config = yaml.safe_load(path.read_text())
            for split in ("train", "val"):
                config["dataset"][split]["key_mapping"]["pos_relaxed"] = "forces"  # any vectors will do
            config["outputs"]["forces"] = {"level": "atom", "train_on_free_atoms": True, "eval_on_free_atoms": True}
            config["loss_functions"].append({"forces": {"fn": "mae", "coefficient": 1}})
            path.write_text(yaml.safe_dump(config))
        train(path, "run")
        whole = load(folder / name, "run")
        kept = ("trainer", "task", "model", "outputs", "evaluation_metrics", "loss_functions")
        config = {key: whole["config"][key] for key in kept} | {"dataset": {"format": "lmdb"}, "optim": {}}
        weights = {key: value for key, value in whole["state_dict"].items() if value.is_floating_point()}
        whole["state_dict"].update(zip(weights, moved(list(weights.values()))))
        whole["ema"].update(shadow_params=moved(whole["ema"]["shadow_params"]), collected_params=[])
        kept = ("model_version", "state_dict", "normalizers", "ema", "amp")
        contents = {key: whole[key] for key in kept if key in whole} | {"config": config}
        torch.save(contents, DATA / f"{name}.pt")
        outputs[name] = energy_and_forces(DATA / f"{name}.pt")
    (DATA / "outputs.json").write_text(json.dumps(outputs, indent=1) + "\n")


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_those_recorded(name: str) -> None:
    actual = energy_and_forces(DATA / f"{name}.pt")
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-10)):
        assert actual[dtype].keys() == RECORDED[name][dtype].keys()
        for output, recorded in RECORDED[name][dtype].items():
            values = (torch.tensor(numbers, dtype=torch.float64) for numbers in (actual[dtype][output], recorded))
            assert relative_error(*values) < tolerance, (dtype, output)


def opened_by_training(path: Path, folder: Path) -> None:
    train(write_config(folder, MODELS["escn"]), "run", f"--checkpoint={path}")


OPENERS: dict[str, Callable[[Path, Path], object]] = {
    "calculator": lambda path, folder: calculator(path, cpu=True),
    "inference": lambda path, folder: inference_trainer(path, cpu=True),
    "conversion": lambda path, folder: convert_checkpoint("fairchem-escn", path, folder / "converted.pt"),
    "training": opened_by_training,
}


@pytest.mark.parametrize(
    "version, message", [(MODEL_VERSION + 1, "; upgrade fairchem-hdgnn$"), ("2", "a whole number")]
)
@pytest.mark.parametrize("opener", OPENERS)
def test_unknown_layouts_are_refused(opener: str, version: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "later.pt"
    torch.save({**read_checkpoint(DATA / "escn.pt"), "model_version": version}, path)
    with pytest.raises(DataError, match=message) as error:
        OPENERS[opener](path, tmp_path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_earlier_layouts_are_upgraded_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MODEL_VERSION", 3)
    steps = {number: lambda found, number=number: {**found, "seen": [*found["seen"], number]} for number in (1, 2)}
    monkeypatch.setattr(checkpoints, "UPGRADES", steps)
    assert checkpoints.upgraded({"seen": []}, "a.pt") == {"seen": [1, 2], "model_version": 3}
    assert checkpoints.upgraded({"seen": [], "model_version": 2}, "a.pt") == {"seen": [2], "model_version": 3}
    present = {"seen": [], "model_version": 3}
    assert checkpoints.upgraded(present, "a.pt") == present


def test_there_is_an_upgrade_from_every_earlier_layout() -> None:
    assert list(checkpoints.UPGRADES) == list(range(1, MODEL_VERSION))
