"""Read checkpoints of fairchem-core 1.10 and 2 as trained networks, under either version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.checkpoints import read_checkpoint, tensors_by_name
from fairchem_hdgnn.host.inference_files import InferenceFile, is_inference_file, read_inference_file
from fairchem_hdgnn.host.trained import (
    Scale,
    TrainedNetwork,
    architecture_of,
    head_names,
    plain_weights,
)
from fairchem_hdgnn.host.which import Host, installed_host

NOT_FOR_NETWORKS = ("output_name", "vector_name")
"""Keys of a model that name its outputs for fairchem 1.10's trainer."""


def read_trained(path: str | Path, *, raw_weights: bool = False, trusted: bool = False) -> TrainedNetwork:
    """Read the network of a checkpoint of either generation, with averaged weights (EMA) if the file has them.

    Args:
        path: ``checkpoint.pt``, ``best_checkpoint.pt`` or ``inference_ckpt.pt``.
        raw_weights: use the raw weights even if the file has averaged ones.
        trusted: unpickle any object in the file.

    Raises:
        DataError: the file cannot be read.
        ConfigError: its model is not one of this package.
    """
    path = Path(path)
    if is_inference_file(path):
        return from_fairchem2(read_inference_file(path, trusted=trusted), path, raw_weights=raw_weights)
    checkpoint = read_checkpoint(path, trusted=trusted)
    return from_fairchem1({**checkpoint, "config": present_config(checkpoint)}, path, raw_weights=raw_weights)


def present_config(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config of a checkpoint from ``read_checkpoint``; older formats are converted if 1.10 is installed."""
    if installed_host() is not Host.FAIRCHEM_1:
        return checkpoint["config"]
    from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config  # noqa: PLC0415  needs fairchem 1.10

    return checkpoint_config(checkpoint)


def from_fairchem1(checkpoint: Mapping[str, Any], path: Path, *, raw_weights: bool = False) -> TrainedNetwork:
    """The network of a checkpoint that ``read_checkpoint`` read from ``path``.

    Raises:
        ConfigError: its model is not one of this package, or its config has the format before 2024.
    """
    config = checkpoint["config"]
    model = config.get("model")
    if not isinstance(model, Mapping) or not config.get("outputs"):
        raise ConfigError(
            f"{path}: its config has the format before 2024; open it under fairchem-core 1.10, which converts it"
        )
    weights = tensors_by_name(checkpoint["state_dict"])
    hydra = model.get("name") == "hydra"
    section = model["backbone"] if hydra else model
    named = "model" if hydra else "name"
    keys = {key: value for key, value in section.items() if key not in (named, *NOT_FOR_NETWORKS)}
    target, vector = section.get("output_name", "energy"), section.get("vector_name", "forces")
    names, heads = {"energy": target, "forces": vector}, None
    if hydra:
        heads = head_names(model["heads"], path)
        architecture = architecture_of(section["model"], path, "Backbone")
        # fairchem names a target of hydra after its head.
        names |= {output: name for output, name in heads.items() if name in config["outputs"]}
        keys["regress_forces"] = "forces" in heads
    else:
        architecture = architecture_of(model.get("name"), path)
        # The key may be left out, and its default depends on the model.
        keys["regress_forces"] = any(name.startswith("network.force_head.") for name in weights)
    averaged = bool(checkpoint.get("ema")) and not raw_weights
    if averaged:
        weights = _averaged(weights, checkpoint["ema"]["shadow_params"], path)
    if heads is not None:
        weights = plain_weights(weights, heads)
    if vector != "forces" and keys["regress_forces"]:
        # An auxiliary vector, such as Noisy Nodes' displacement, which is not needed for predictions.
        keys["regress_forces"] = False
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("network.force_head.")}
    dataset = config.get("dataset") or {}
    optim = config.get("optim") or {}
    return TrainedNetwork(
        architecture,
        keys,
        weights,
        {
            output: Scale.of_state(state)
            for output, name in names.items()
            if (state := checkpoint["normalizers"].get(name))
        },
        {
            output: state["element_references"]
            for output, name in names.items()
            if (state := (checkpoint.get("elementrefs") or {}).get(name))
        },
        averaged,
        path,
        {key: dataset[key] for key in ("key_mapping", "src", "format") if key in dataset},
        optim.get("eval_batch_size") or optim.get("batch_size"),
        target,
    )


def from_fairchem2(contents: InferenceFile, path: Path, *, raw_weights: bool = False) -> TrainedNetwork:
    """The network of a file that ``read_inference_file`` read from ``path``.

    Raises:
        ConfigError: its model is not one of this package, or its tasks cannot be read without fairchem.
    """
    backbone = contents.model.get("backbone")
    if not isinstance(backbone, dict):
        raise ConfigError(f"{path}: its config has no 'backbone', so its weights cannot be assigned")
    heads = head_names(contents.model.get("heads") or {}, path)
    keys = {key: value for key, value in backbone.items() if key != "model"}
    tasks = {str(task.get("name")): task for task in contents.tasks}
    scales, references = {}, {}
    for output, name in heads.items():
        if (normalizer := tasks.get(name, {}).get("normalizer")) is not None:
            scales[output] = _second_scale(normalizer, f"{path}: normalizer of task '{name}'")
        if (found := tasks.get(name, {}).get("element_references")) is not None:
            references[output] = _second_references(found, f"{path}: element_references of task '{name}'")
    averaged = bool(contents.averages) and not raw_weights
    return TrainedNetwork(
        architecture_of(backbone.get("model"), path, "Backbone"),
        {**keys, "regress_forces": "forces" in heads},
        plain_weights(contents.averages if averaged else contents.weights, heads),
        scales,
        references,
        averaged,
        path,
        _recorded_labels(contents.training_record),
    )


def _recorded_labels(record: Any) -> dict[str, Any]:
    """The names of labels in the record that converted files have; empty for others."""
    for name in ("config", "dataset", "train", "key_mapping"):
        record = record.get(name) if isinstance(record, Mapping) else None
    return {"key_mapping": dict(record)} if isinstance(record, Mapping) and record else {}


def _averaged(weights: Mapping[str, Tensor], averages: list[Tensor], path: Path) -> dict[str, Tensor]:
    """The weights replaced by their averages, which fairchem 1.10 stores without names, in the order of parameters."""
    names = [name for name in weights if not name.endswith(".frames.draws")]
    if [weights[name].shape for name in names] != [average.shape for average in averages]:
        raise ConfigError(
            f"{path}: its averaged weights (EMA) have no names and do not match the order of its weights; "
            "use the raw weights (convert --raw-weights)"
        )
    return {**weights, **dict(zip(names, averages))}


def _second_scale(config: Mapping[str, Any], subject: str) -> Scale:
    mean, rmsd = config.get("mean", 0.0), config.get("rmsd", 1.0)
    if set(config) - {"_target_", "mean", "rmsd"} or not all(isinstance(value, (int, float)) for value in (mean, rmsd)):
        raise DataError(f"{subject}: 'mean' and 'rmsd' must be plain numbers, to be read without fairchem-core 2")
    return Scale(float(mean), float(rmsd))


def _second_references(config: Mapping[str, Any], subject: str) -> Tensor:
    numbers = config.get("element_references")
    if isinstance(numbers, Mapping):
        numbers = numbers.get("data") or next(iter(numbers.get("_args_") or [None]))
    if not isinstance(numbers, list) or not all(isinstance(value, (int, float)) for value in numbers):
        raise DataError(f"{subject}: must be a list of plain numbers, to be read without fairchem-core 2")
    return torch.tensor(numbers, dtype=torch.float32)
