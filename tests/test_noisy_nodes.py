"""The auxiliary task: which structures are moved and how, what the vector head learns, and that evaluation is clean."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import small_runs
import torch
import yaml
from evaluation_data import make_records
from fairchem.core.common.utils import load_config
from fairchem.core.datasets import data_list_collater
from fairchem.core.datasets.base_dataset import create_dataset
from torch.utils.data import DataLoader

from fairchem_hdgnn.data.lmdb import write_lmdb
from fairchem_hdgnn.data.reading import Records
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.evaluation.inference import InferenceOptions, predict_splits
from fairchem_hdgnn.host.fairchem1.models import PlainModel
from fairchem_hdgnn.host.fairchem1.noisy_nodes import teach_transform
from fairchem_hdgnn.host.noisy_nodes import NoisyNodes, add_displacement, in_cells
from fairchem_hdgnn.host.schedules import LossSchedule

CONFIGS = Path(__file__).parents[1] / "configs/oc20/is2re/10k"
WIDTHS = {"lmax": 2, "num_layers": 2, "sphere_channels": 8, "hidden_channels": 16, "edge_channels": 8}
GRAPH = {
    "cutoff": 4.0,
    "max_neighbors": 8,
    "num_sphere_samples": 16,
    "distance_resolution": 0.5,
    "readout_init": "random",
}
TINY = {
    "hdgnn": {**WIDTHS, **GRAPH, "lmax_metp": 1, "invariant_channels": 8, "near_neighbors": 4},
    "escn_so2": {**WIDTHS, **GRAPH, "mmax": 1},
}
DOWNWARDS = -0.4
"""Å that adsorbates fall in these data."""


def records(num: int, seed: int) -> list:
    """Slabs whose adsorbates fall; the cell is small enough for some to fall through its boundary."""
    made = make_records(num, 1000 * seed, seed)
    for record in made:
        way = torch.zeros_like(record.pos)
        way[record.tags == 2, 2] = DOWNWARDS
        record.pos_relaxed = record.pos + way
    return made


def batch_of(num: int = 6):
    return data_list_collater([add_displacement(record) for record in records(num, 1)], otf_graph=True)


def assert_same_places(pos: torch.Tensor, expected: torch.Tensor, batch) -> None:
    """Equal up to whole cell vectors."""
    units = in_cells(pos - expected, batch)
    torch.testing.assert_close(units, units.round(), atol=1e-5, rtol=0)


# === the transform ===============================================================================


def test_displacement_does_not_jump_over_the_boundary():
    record = records(1, 1)[0]
    expected = record.pos_relaxed - record.pos
    record.pos_relaxed = record.pos_relaxed + record.cell[0, 0] - 2 * record.cell[0, 1] + record.cell[0, 2]
    torch.testing.assert_close(add_displacement(record).displacement, expected, atol=1e-5, rtol=0)


def test_only_periodic_boundaries_are_crossed():
    """A slab that is periodic in the plane: nothing comes back from below."""
    record = records(1, 1)[0]
    record.pbc = torch.tensor([True, True, False])
    expected = record.pos_relaxed - record.pos + record.cell[0, 2]
    record.pos_relaxed = record.pos_relaxed + record.cell[0, 0] + record.cell[0, 2]
    torch.testing.assert_close(add_displacement(record).displacement, expected, atol=1e-5, rtol=0)


def test_a_test_split_has_no_target():
    record = records(1, 1)[0]
    del record.pos_relaxed
    assert "displacement" not in add_displacement(record)


def test_moved_atoms_lie_on_the_way_and_the_rest_of_it_is_the_target():
    batch = batch_of()
    start, end = batch.pos.clone(), batch.pos_relaxed.clone()
    NoisyNodes(probability=1.0, standard_deviation=0.0).move(batch)
    assert_same_places(batch.pos + batch.displacement, end, batch)
    share = ((batch.pos - start)[batch.tags == 2, 2] / DOWNWARDS).numpy()
    assert ((share > 0) & (share < 1)).all() and len(np.unique(share)) == len(share), "each atom has its own share"
    assert torch.equal(batch.pos[batch.tags == 0], start[batch.tags == 0])


def test_noise_moves_free_atoms_of_half_of_the_structures():
    batch = batch_of(200)
    start = batch.pos.clone()
    end = batch.pos_relaxed.clone()
    NoisyNodes().move(batch)
    moved = (batch.pos != start).any(dim=1)
    assert not moved[(batch.tags == 0) | (batch.fixed != 0)].any()
    by_structure = [moved[(batch.batch == index) & (batch.tags > 0)] for index in range(200)]
    assert all(atoms.all() or not atoms.any() for atoms in by_structure), "a structure is moved as a whole or not"
    assert 0.4 < np.mean([bool(atoms.all()) for atoms in by_structure]) < 0.6
    surface = moved & (batch.tags == 1)
    assert batch.displacement[surface].std().item() == pytest.approx(0.3, rel=0.05)
    assert_same_places(batch.pos + batch.displacement, end, batch)
    assert (batch.pos - start).abs().max() < 2.0 < batch.cell.norm(dim=-1).min() / 2, (
        "no atom changes sides, which could cut a molecule"
    )


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    write_lmdb(folder, records(3, 1))
    return folder / "data.lmdb"


def data_set(path: Path, kind: str):
    settings = {"noisy_nodes": {}, "normalizer": {"energy": {"mean": 0.0}}}
    return create_dataset({"src": str(path), "format": kind, "no_shuffle": True, "transforms": settings}, "train")


def test_data_sets_of_fairchem_can_be_taught_the_transform(stored):
    """fairchem looks for transforms in a module of its own, which stays as it is."""
    theirs = data_set(stored, "lmdb")
    with pytest.raises(NameError, match="noisy_nodes"):
        theirs[0]
    teach_transform(theirs)
    expected = add_displacement(records(3, 1)[0]).displacement
    torch.testing.assert_close(theirs[0].displacement, expected)


@pytest.mark.parametrize("place", ["data.lmdb", ""], ids=["file", "folder"])
def test_a_data_set_goes_into_another_process(stored, place):
    ours = data_set(stored.parent / place, "safe_lmdb")
    assert torch.equal(pickle.loads(pickle.dumps(ours))[1].displacement, ours[1].displacement)


def test_spawned_workers_read_and_transform_records(stored):
    """They start without the parent's modules and open files."""
    ours = data_set(stored, "safe_lmdb")
    context = multiprocessing.get_context("spawn")
    loader = DataLoader(ours, batch_size=None, num_workers=1, multiprocessing_context=context)
    for here, there in zip(ours, loader):
        assert torch.equal(here.displacement, there.displacement)


# === training ====================================================================================


@pytest.fixture(scope="module", params=["hdgnn", pytest.param("escn_so2", marks=pytest.mark.heavy)])
def run(request, tmp_path_factory):
    """A run of the shipped configuration with a tiny model, and all that its model was shown."""
    folder = tmp_path_factory.mktemp(request.param)
    config, _, _ = load_config(CONFIGS / f"{request.param}_noisy_nodes.yml")
    config["model"].update(TINY[request.param])
    config["dataset"].pop("test")
    for split, num, seed in (("train", 24, 1), ("val", 9, 2)):
        (folder / split).mkdir()
        write_lmdb(folder / split, records(num, seed))
        config["dataset"][split]["src"] = str(folder / split / "data.lmdb")
    transforms = config["dataset"]["train"]["transforms"]
    transforms["normalizer"] = {"displacement": {"mean": 0.0, "stdev": 0.2}, "energy": {"mean": -0.5, "stdev": 0.5}}
    transforms["noisy_nodes"]["standard_deviation"] = 0.1
    config["optim"].update(
        batch_size=4, max_epochs=30, eval_every=90, num_workers=0, lr_initial=0.01, warmup_steps=4, ema_decay=0.9
    )
    config["optim"]["lr_milestones"] = [1000]
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(config))
    seen, coefficients = [], []
    forward, apply = PlainModel.forward, LossSchedule.apply

    def watched_forward(model, data):
        seen.append((model.training, data.sid.tolist(), data.natoms.tolist(), data.pos.clone()))
        return forward(model, data)

    def watched_apply(schedule, loss_functions, progress):
        apply(schedule, loss_functions, progress)
        coefficients.append({target: loss["coefficient"] for target, loss in loss_functions})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PlainModel, "forward", watched_forward)
        patch.setattr(LossSchedule, "apply", watched_apply)
        small_runs.train(path, "run", "--seed=1")
    return folder, seen, coefficients


def stored_positions(folder: Path) -> dict[int, torch.Tensor]:
    found = {}
    for split in ("train", "val"):
        found.update({record.sid: record.pos for record in Records(folder / split)})
    return found


def test_clean_structures_are_untouched_at_evaluation_and_moved_in_training(run):
    folder, seen, _ = run
    stored = stored_positions(folder)
    untouched = {True: [], False: []}
    for training, sids, natoms, pos in seen:
        for sid, atoms in zip(sids, pos.split(natoms)):
            untouched[training].append(torch.equal(atoms, stored[sid]))
    assert len(untouched[False]) == 1 + 2 * 9 and all(untouched[False]), "one in the trial before the training"
    assert 0.35 < np.mean(untouched[True]) < 0.65


def test_weight_of_the_auxiliary_loss_falls_and_that_of_the_energy_stays(run):
    _, seen, coefficients = run
    trial, *in_training = [each for each, shown in zip(coefficients, seen) if shown[0]]
    assert trial == {"energy": 1, "displacement": 15}
    assert [each["energy"] for each in in_training] == [1] * 180
    assert in_training[-1]["displacement"] == 1
    steps = np.diff([each["displacement"] for each in in_training])
    np.testing.assert_allclose(steps, -14 / 180)
    assert in_training[0]["displacement"] == pytest.approx(15 - 14 / 180)


@pytest.mark.parametrize("run", ["hdgnn"], indirect=True)
def test_a_plain_fairchem_launch_trains_on_the_same(run):
    """Its own command line, its own data format: only ``trainer`` in the config leads here."""
    folder, _, _ = run
    theirs = ("--dataset.train.format=lmdb", "--dataset.val.format=lmdb", "--optim.max_epochs=1", "--seed=1")
    small_runs.fairchem(folder / "config.yml", "plain", *theirs)
    first = [small_runs.losses(folder, run_id, "train/displacement_mae")[1] for run_id in ("run", "plain")]
    assert first[0] == pytest.approx(first[1], rel=1e-5)


def test_vector_head_is_trained(run):
    folder, _, _ = run
    mae = small_runs.losses(folder, "run", "val/displacement_mae")
    # Always answering "stays where it is" would err by a third of the fall of the adsorbates among the free atoms.
    free = [record.fixed == 0 for record in records(9, 2)]
    still = torch.cat([(r.pos_relaxed - r.pos)[f] for r, f in zip(records(9, 2), free)]).abs().mean().item()
    assert mae[180] < 0.75 * still


def test_predictions_are_those_of_the_clean_structures(run):
    folder, _, _ = run
    best = small_runs.load(folder, "run", "best_checkpoint.pt")
    options = InferenceOptions(cpu=True, progress=False)
    predictions = predict_splits(
        folder / "checkpoints/run/best_checkpoint.pt", {"val": folder / "val/data.lmdb"}, options
    )
    found = np.abs(predictions["val"].errors).mean()
    assert found == pytest.approx(best["val_metrics"]["energy_mae"]["metric"], rel=1e-4)
    assert predictions["val"].forces is None


# === faults ======================================================================================


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"probabilty": 0.5}, "unknown key 'probabilty'; did you mean 'probability'"),
        ({"probability": 1.5}, "'probability' must be a number from 0 to 1, not 1.5"),
        ({"standard_deviation": -0.1}, "'standard_deviation' must be a number of at least 0"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigError, match=f"noisy_nodes: {message}"):
        NoisyNodes.of_config({"dataset": {"transforms": {"noisy_nodes": settings}}})


@pytest.mark.parametrize("section", ["model", "model.backbone"])
def test_edges_must_be_built_on_the_fly(section):
    config = {"dataset": {"transforms": {"noisy_nodes": {}}}}
    for otf_graph in (True, False):
        config["model"] = {"otf_graph": otf_graph}
        if section == "model.backbone":
            config["model"] = {"backbone": {"otf_graph": otf_graph}, "otf_graph": not otf_graph}
        if otf_graph:
            assert NoisyNodes.of_config(config) == NoisyNodes()
        else:
            with pytest.raises(ConfigError, match=rf"^{section}\.otf_graph: noisy_nodes moves atoms"):
                NoisyNodes.of_config(config)


def test_no_transform_no_noise():
    for transforms in ({"normalizer": {}}, None):
        assert NoisyNodes.of_config({"dataset": {"transforms": transforms}}) is None


def test_final_coefficient_must_be_a_number():
    with pytest.raises(
        ConfigError, match=r"loss_functions\.energy: 'final_coefficient' must be a number of at least 0, not 'low'"
    ):
        LossSchedule([{"energy": {"fn": "mae", "coefficient": 1, "final_coefficient": "low"}}])
