"""Configs for fairchem-core 2 train as those of the same name for 1.10 do."""

from __future__ import annotations

import re
from itertools import accumulate
from pathlib import Path
from typing import Any

import hydra
import pytest
from fairchem.core.datasets.mt_concat_dataset import ConcatDataset
from fc2_data_configs import CONFIGS, IS2RE, composed, header, with_includes

from fairchem_hdgnn.host.fairchem2.configs import untrained_network
from fairchem_hdgnn.host.models import ESCN, HDGNN, read_keys

NAMES = sorted(str(path.relative_to(IS2RE)) for path in IS2RE.rglob("*.yml"))
OC20 = [name for name in NAMES if not name.startswith("demo")]
SMALL = [name for name in NAMES if name.startswith(("demo", "10k"))]
FILES = ("val_id", "val_ood_ads", "val_ood_cat", "val_ood_both")


def both(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config for fairchem-core 2 and that of 1.10."""
    return composed(IS2RE / name), with_includes(CONFIGS / "oc20" / "is2re" / name)


def tasks_of(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in config["runner"]["train_eval_unit"]["tasks"]}


def test_every_size_is_there() -> None:
    sizes = {f"{size}/{model}.yml" for size in ("10k", "100k", "all") for model in ("hdgnn", "escn_so2")}
    assert {*sizes, "10k/hdgnn_noisy_nodes.yml", "demo/hdgnn.yml"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_same_network(name: str) -> None:
    two, one = both(name)
    model = two["runner"]["train_eval_unit"]["model"]
    network = {key: value for key, value in one["model"].items() if key not in ("name", "vector_name")}
    backbone = dict(model["backbone"])
    assert backbone.pop("model") == f"{one['model']['name']}Backbone"
    architecture = HDGNN if "HDGNN" in one["model"]["name"] else ESCN
    assert read_keys(backbone, architecture) == read_keys(network, architecture)
    assert model["heads"]["relaxed_energy"] == {"module": f"{one['model']['name']}EnergyHead"}
    assert set(model["heads"]) == set(tasks_of(two))


@pytest.mark.parametrize("name", NAMES)
def test_same_training(name: str) -> None:
    two, one = both(name)
    runner, optim = two["runner"], one["optim"]
    unit = runner["train_eval_unit"]
    loaders = runner["train_dataloader"], runner["eval_dataloader"]
    assert [loader["batch_sampler_fn"]["batch_size"] for loader in loaders] == [
        optim["batch_size"],
        optim["eval_batch_size"],
    ]
    assert [loader["num_workers"] for loader in loaders] == [optim["num_workers"]] * 2
    assert runner["max_epochs"] == optim["max_epochs"]
    optimizer = unit["optimizer_fn"]
    assert optimizer["_target_"] == f"torch.optim.{optim['optimizer']}"
    assert optimizer["lr"] == optim["lr_initial"]
    assert {key: optimizer[key] for key in optim["optimizer_params"]} == optim["optimizer_params"]
    assert unit["clip_grad_norm"] == optim["clip_grad_norm"]
    assert unit["ema_decay"] == optim["ema_decay"]


@pytest.mark.parametrize("name", OC20)
def test_same_schedule(name: str) -> None:
    two, one = both(name)
    schedule, optim = two["runner"]["train_eval_unit"]["cosine_lr_scheduler_fn"], one["optim"]
    for key in ("warmup_steps", "warmup_factor", "lr_milestones", "lr_gamma"):
        assert schedule[key] == optim[key], key
    # fairchem evaluates after each epoch in any case, which is about as often.
    assert two["runner"]["evaluate_every_n_steps"] is None
    (every,) = (entry.get("checkpoint_every_n_steps") for entry in two["runner"]["callbacks"] if len(entry) > 1)
    assert every == optim["eval_every"]
    scheduler = two["job"]["scheduler"]
    ranks = scheduler["ranks_per_node"] * scheduler["num_nodes"]
    assert ranks * optim["batch_size"] == optim["effective_batch_size"]
    assert f"{optim['effective_batch_size']} = {optim['batch_size']} systems" in header(IS2RE / name)


def test_demo_has_the_same_schedule() -> None:
    two, one = both("demo/hdgnn.yml")
    schedule = two["runner"]["train_eval_unit"]["cosine_lr_scheduler_fn"]
    assert {key: schedule[key] for key in ("max_lr", "pct_start")} == {
        key: one["optim"][key] for key in ("max_lr", "pct_start")
    }


@pytest.mark.parametrize("name", NAMES)
def test_same_data_and_targets(name: str) -> None:
    two, one = both(name)
    train, evaluated = (
        two["runner"][f"{subset}_dataloader"]["dataset"]["dataset_configs"]["oc20"] for subset in ("train", "eval")
    )
    assert train["splits"]["train"]["src"] == one["dataset"]["train"]["src"]
    assert evaluated["splits"]["val_id"]["src"] == one["dataset"]["val"]["src"]
    folder = Path(one["dataset"]["val"]["src"]).parents[1]
    assert {key: split["src"] for key, split in evaluated["splits"].items()} == {
        key: f"{folder}/{key}/data.lmdb" for key in FILES
    }
    task = tasks_of(two)["relaxed_energy"]
    normalizer = one["dataset"]["train"]["transforms"]["normalizer"]["energy"]
    assert (task["normalizer"]["mean"], task["normalizer"]["rmsd"]) == (normalizer["mean"], normalizer["stdev"])
    assert task["metrics"] == one["evaluation_metrics"]["metrics"]["energy"]
    assert task["loss_fn"]["loss_fn"]["_target_"].endswith("MAELoss")
    assert one["loss_functions"][0]["energy"] == {"fn": "mae", "coefficient": task["loss_fn"]["coefficient"]}


@pytest.mark.parametrize("name", NAMES)
def test_each_system_once(name: str) -> None:
    """fairchem's other ways to mix data sets round their sizes; these are OC20's."""
    runner = composed(IS2RE / name)["runner"]
    for subset, sizes in (
        ("train", {"train": 460_328}),
        ("eval", {"val_id": 24_943, "val_ood_ads": 24_961, "val_ood_cat": 24_963, "val_ood_both": 24_987}),
    ):
        data = runner[f"{subset}_dataloader"]["dataset"]
        names = [f"oc20.{split}" for split in data["dataset_configs"]["oc20"]["splits"]]
        assert names == [f"oc20.{split}" for split in sizes]
        mixed = ConcatDataset(dict(zip(names, map(range, sizes.values()))), data["combined_dataset_config"]["sampling"])
        assert mixed.cumulative_sizes == list(accumulate(sizes.values()))


def test_noisy_nodes() -> None:
    two, one = both("10k/hdgnn_noisy_nodes.yml")
    task, sets = tasks_of(two)["displacement_forces"], two["runner"]
    train, evaluated = (
        sets[f"{subset}_dataloader"]["dataset"]["dataset_configs"]["oc20"] for subset in ("train", "eval")
    )
    transforms = one["dataset"]["train"]["transforms"]
    assert train["splits"]["train"]["noisy_nodes"] == transforms["noisy_nodes"]
    assert evaluated["noisy_nodes"] == {"probability": 0.0}
    assert task["normalizer"]["rmsd"] == transforms["normalizer"]["displacement"]["stdev"]
    assert {key: task[key] for key in ("train_on_free_atoms", "eval_on_free_atoms", "level")} == {
        key: one["outputs"]["displacement"][key] for key in ("train_on_free_atoms", "eval_on_free_atoms", "level")
    }
    loss = one["loss_functions"][1]["displacement"]
    assert task["loss_fn"]["loss_fn"]["_target_"].endswith("L2NormLoss")
    assert 2 * task["loss_fn"]["coefficient"] == loss["coefficient"] + loss["final_coefficient"]


@pytest.mark.parametrize("name", SMALL)
def test_header_tells_the_number_of_parameters(name: str) -> None:
    model = hydra.utils.instantiate(composed(IS2RE / name)["runner"]["train_eval_unit"]["model"])
    (told,) = re.findall(r"^# Parameters +([\d,]+)$", header(IS2RE / name), re.MULTILINE)
    assert sum(parameter.numel() for parameter in model.parameters()) == int(told.replace(",", ""))


@pytest.mark.parametrize("name", NAMES)
def test_network_of_a_shipped_config(name: str) -> None:
    """As `fairchem-hdgnn equivariance CONFIG` opens it: what it takes from others included."""
    found = untrained_network(IS2RE / name)
    backbone = composed(IS2RE / name)["runner"]["train_eval_unit"]["model"]["backbone"]
    # The head for displacements is of the training alone, so it stays behind.
    assert found.keys == {
        **{key: value for key, value in backbone.items() if key in found.keys},
        "regress_forces": False,
    }
    assert {"lmax", "num_layers", "cutoff"} <= set(found.keys)
    assert "energy" in found.outputs
