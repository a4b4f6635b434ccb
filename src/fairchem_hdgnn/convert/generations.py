"""Convert checkpoints of this package between fairchem-core 1.10 and 2, in the environment of either."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fairchem_hdgnn.convert.converted import Converted, require_absent, require_raw
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.checkpoints import MODEL_VERSION, write_checkpoint
from fairchem_hdgnn.host.generations import read_trained
from fairchem_hdgnn.host.inference_files import InferenceFile, is_inference_file, write_inference_file
from fairchem_hdgnn.host.trained import TrainedNetwork, hydra_weights
from fairchem_hdgnn.host.training_record import KEY, TrainingRecord, read_training_record

FIRST, SECOND = "fairchem1", "fairchem2"
GENERATIONS = {
    FIRST: "checkpoint.pt of HDGNN or eSCN of this package under fairchem-core 1.10, plain or hydra",
    SECOND: "inference_ckpt.pt of the same under fairchem-core 2",
}
"""Values of ``--from`` and ``--to``."""

DATASET = "oc20"
"""fairchem-core 2's name of the task's data set."""

_CORE = "fairchem.core"


def convert_generation(
    target: str, path: str | Path, out: str | Path, *, raw_weights: bool = False, trusted: bool = False
) -> Converted:
    """Convert a checkpoint of one fairchem-core to a file that the other opens.

    The new file has the weights (averaged, EMA, if available), normalisers, element references, the model's keys and
    the record of the training. The optimiser's state and heads that are used only in training are dropped.

    Args:
        target: the generation to write, not that of ``path``.
        path: the checkpoint to convert.
        out: the file to write; it must not exist.
        raw_weights: use the raw weights even if there are averaged ones.
        trusted: see :func:`~fairchem_hdgnn.host.checkpoints.read_checkpoint`.

    Raises:
        DataError: the file cannot be read, its weights do not fit, or ``out`` exists.
        ConfigError: the file is already of ``target``, its model is not of this package, or it predicts no energy.
    """
    path, out = Path(path), Path(out)
    require_absent(out)
    found = SECOND if is_inference_file(path) else FIRST
    if found == target:
        raise ConfigError(f"{path}: is already a checkpoint of {found}; nothing to convert")
    trained = read_trained(path, raw_weights=raw_weights, trusted=trusted)
    if trained.target != "energy":
        raise ConfigError(
            f"{path}: predicts '{trained.target}'; only checkpoints that predict 'energy' can be converted"
        )
    record = read_training_record(path, raw_weights=raw_weights, trusted=trusted)
    require_raw(path, record.averaged, raw_weights=raw_weights)
    model = trained.build()
    WRITERS[target](trained, record, out)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Converted(out, f"fairchem_hdgnn.{trained.name}", num_parameters, bool(record.averaged))


def write_first(trained: TrainedNetwork, record: TrainingRecord, out: Path) -> None:
    """Write a plain model with the config that fairchem-core 1.10 needs for prediction."""
    levels = {"energy": "system", "forces": "atom"}
    guess = {"y_relaxed": "energy"} if trained.outputs == ("energy",) else {"y": "energy", "force": "forces"}
    labels = trained.dataset.get("key_mapping") or guess
    config = {
        "trainer": "ocp",
        "task": {},
        "model": {"name": f"fairchem_hdgnn.{trained.name}", **trained.keys},
        "outputs": {name: _output(levels[name]) for name in trained.outputs},
        "loss_functions": [{name: {"fn": "mae", "coefficient": 1}} for name in trained.outputs],
        "evaluation_metrics": {"metrics": {"energy": ["mae"]}, "primary_metric": "energy_mae"},
        # fairchem's own calculator deletes `src` without checking that it exists.
        "dataset": {"format": "lmdb", "key_mapping": labels, "src": ""},
        "optim": {} if trained.batch_size is None else {"eval_batch_size": trained.batch_size},
    }
    contents = {
        "model_version": MODEL_VERSION,
        "config": config,
        "state_dict": trained.weights,
        "normalizers": {
            name: {"mean": torch.tensor(scale.mean), "rmsd": torch.tensor(scale.rmsd)}
            for name, scale in trained.scales.items()
        },
        "elementrefs": {name: {"element_references": values} for name, values in trained.references.items()},
        "val_metrics": None,
        "ema": None,
        "amp": None,
        KEY: record.as_plain(),
    }
    write_checkpoint(contents, out)


def write_second(trained: TrainedNetwork, record: TrainingRecord, out: Path) -> None:
    """Write an inference file of fairchem-core 2: a backbone with the head ``energy`` and, with forces, ``forces``."""
    # Under fairchem-core 2 every batch has an edge array, which is empty unless a data set stored edges.
    keys = {**trained.keys, "otf_graph": True}
    kinds = {"energy": "EnergyHead", "forces": "ForceHead"}
    model = {
        "_target_": f"{_CORE}.models.base.HydraModel",
        "backbone": {"model": f"fairchem_hdgnn.{trained.name}Backbone", **keys},
        "heads": {name: {"module": f"fairchem_hdgnn.{trained.name}{kinds[name]}"} for name in trained.outputs},
    }
    weights = hydra_weights(trained.weights)
    tasks = [_task(trained, name) for name in trained.outputs]
    write_inference_file(InferenceFile(model, tasks, weights, weights, record.as_plain()), out)


WRITERS: dict[str, Callable[[TrainedNetwork, TrainingRecord, Path], None]] = {FIRST: write_first, SECOND: write_second}
"""Target generation -> its writer."""


def _output(level: str) -> dict[str, Any]:
    free = {} if level == "system" else {"train_on_free_atoms": True, "eval_on_free_atoms": True}
    return {"level": level, "prediction_dtype": "float32", **free}


def _task(trained: TrainedNetwork, name: str) -> dict[str, Any]:
    normalization = f"{_CORE}.modules.normalization"
    mean, rmsd = trained.scales.get(name, (0.0, 1.0))
    task: dict[str, Any] = {
        "_target_": f"{_CORE}.units.mlip_unit.mlip_unit.Task",
        "name": name,
        "level": "system" if name == "energy" else "atom",
        "property": name,
        "out_spec": {"dim": [1] if name == "energy" else [3], "dtype": "float32"},
        "normalizer": {"_target_": f"{normalization}.normalizer.Normalizer", "mean": mean, "rmsd": rmsd},
        "datasets": [DATASET],
        "metrics": ["mae"],
    }
    if name in trained.references:
        numbers = {"_target_": "torch.tensor", "_convert_": "all", "data": trained.references[name].tolist()}
        task["element_references"] = {
            "_target_": f"{normalization}.element_references.ElementReferences",
            "element_references": numbers,
        }
    return task
