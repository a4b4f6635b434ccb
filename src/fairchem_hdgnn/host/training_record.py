"""Information about the training of a checkpoint, as plain values that can be stored with converted weights.

Paths are shortened when the record is created, so that neither a file that contains it nor text written from it
reveals folders of the training machine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Optional

import torch
from pydantic import TypeAdapter, ValidationError

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.checkpoints import read_checkpoint
from fairchem_hdgnn.host.generations import present_config
from fairchem_hdgnn.host.inference_files import is_inference_file, read_inference_file

KEY = "training_record"
"""Key of the record in a converted file."""

SECTIONS = ("model", "outputs", "loss_functions", "evaluation_metrics", "optim", "task", "amp")
"""Recorded sections of a config of fairchem-core 1.10, besides the data sets."""

MaybeCount = Optional[int]
MaybeNumber = Optional[float]
MaybeText = Optional[str]
MaybeTrue = Optional[bool]

_ROOTED = re.compile(r"[/~$]|[A-Za-z]:[\\/]")
_PRIVATE_FOLDERS = 2
"""Leading parts of an absolute path that are removed: ``/home/NAME``, ``/scratch/PROJECT``."""

_LONGEST = 3


@dataclass(frozen=True)
class TrainingRecord:
    """Information about a training in a checkpoint; ``None`` or empty: not in the file.

    Attributes:
        config: sections of the config in fairchem 1.10's layout, ``dataset`` by split, paths shortened.
        averaged: whether the weights are moving averages (EMA).
        epoch: passes over the training data when the file was written.
        step: optimiser steps when the file was written.
        seed: seed of the run.
        num_ranks: number of ranks.
        versions: package -> version used in training.
        commit: git commit that fairchem found in the folder where the training started.
        validation: metric -> its mean over the validation set, for the weights in the file.
        best: primary metric -> its best value in the run, possibly of other weights.
        own_trainer: whether this package's trainer wrote the file.
    """

    config: dict[str, Any] = field(default_factory=dict)
    averaged: MaybeTrue = None
    epoch: MaybeNumber = None
    step: MaybeCount = None
    seed: MaybeCount = None
    num_ranks: MaybeCount = None
    versions: dict[str, str] = field(default_factory=dict)
    commit: MaybeText = None
    validation: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    own_trainer: bool = False

    def as_plain(self) -> dict[str, Any]:
        """The record as dictionaries, lists, strings and numbers."""
        return asdict(self)

    def section(self, name: str) -> dict[str, Any]:
        """A section of the config; empty if it is missing or not a mapping."""
        return dict(_mapping(self.config.get(name)))

    @property
    def training_set(self) -> dict[str, Any]:
        """Settings of ``dataset.train``."""
        return dict(_mapping(self.section("dataset").get("train")))


def read_training_record(path: str | Path, *, raw_weights: bool = False, trusted: bool = False) -> TrainingRecord:
    """Read the record of a checkpoint of either fairchem-core, or the one stored in a converted file.

    Args:
        path: ``checkpoint.pt``, ``best_checkpoint.pt`` or ``inference_ckpt.pt``.
        raw_weights: whether the raw weights are used even if the file has averaged ones.
        trusted: unpickle any object in the file.

    Raises:
        DataError: the file cannot be read, or the record in it is damaged.
    """
    path = Path(path)
    if is_inference_file(path):
        contents = read_inference_file(path, trusted=trusted)
        if contents.training_record is not None:
            return _checked(contents.training_record, path)
        return TrainingRecord(averaged=bool(contents.averages) and not raw_weights)
    checkpoint = read_checkpoint(path, trusted=trusted)
    if checkpoint.get(KEY) is not None:
        return _checked(checkpoint[KEY], path)
    return of_checkpoint(checkpoint, raw_weights=raw_weights)


def of_checkpoint(checkpoint: Mapping[str, Any], *, raw_weights: bool = False) -> TrainingRecord:
    """The record of a checkpoint of fairchem-core 1.10 from ``read_checkpoint``."""
    config = present_config(checkpoint)
    command, conditions = (_mapping(part) for part in (config.get("cmd"), checkpoint.get("conditions")))
    versions = {str(name): str(number) for name, number in _mapping(checkpoint.get("versions")).items()}
    if command.get("version"):
        versions.setdefault("fairchem-core", str(command["version"]))
    best, ranked_by = checkpoint.get("best_val_metric"), checkpoint.get("primary_metric")
    return TrainingRecord(
        config=_without_paths(_sections(config)),
        averaged=_averaged(checkpoint, config, raw_weights),
        epoch=_number(checkpoint.get("epoch")),
        step=_whole(checkpoint.get("step")),
        seed=_whole(command.get("seed")),
        num_ranks=_whole(conditions.get("world size")),
        versions=versions,
        commit=str(command["commit"]) if command.get("commit") else None,
        validation=_means(checkpoint.get("val_metrics")),
        best={} if _number(best) is None or not ranked_by else {str(ranked_by): float(best)},  # type: ignore[arg-type]
        own_trainer="versions" in checkpoint or "conditions" in checkpoint,
    )


def shortened(path: str) -> str:
    """The last parts of a path, without the leading folders of an absolute one: ``all/train/data.lmdb``."""
    parts = [part for part in path.replace("\\", "/").split("/") if part.strip(".~") and not part.endswith(":")]
    if _ROOTED.match(path):
        parts = parts[min(_PRIVATE_FOLDERS, len(parts) - 1) :]
    return "/".join(parts[-_LONGEST:])


def _sections(config: Mapping[str, Any]) -> dict[str, Any]:
    dataset = _mapping(config.get("dataset"))
    splits = dict(dataset) if "train" in dataset else {"train": dict(dataset)}
    for split in ("val", "test", "relax"):
        if found := _mapping(config.get(f"{split}_dataset")):
            splits[split] = dict(found)
    kept = {name: config[name] for name in SECTIONS if config.get(name)}
    return {"dataset": {split: each for split, each in splits.items() if each}, **kept}


def _averaged(checkpoint: Mapping[str, Any], config: Mapping[str, Any], raw_weights: bool) -> bool:
    if checkpoint.get("ema"):
        return not raw_weights
    # best_checkpoint.pt has the averages in place of the weights, and no training state.
    return "step" not in checkpoint and bool(_mapping(config.get("optim")).get("ema_decay"))


def _means(metrics: Any) -> dict[str, float]:
    found = {str(name): _number(_mapping(each).get("metric")) for name, each in _mapping(metrics).items()}
    return {name: value for name, value in found.items() if value is not None}


def _checked(plain: Any, path: Path) -> TrainingRecord:
    try:
        record: TrainingRecord = TypeAdapter(TrainingRecord).validate_python(plain)
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "it"
        raise DataError(f"{path}: its '{KEY}' is damaged ({place}); convert the checkpoint again") from None
    return replace(record, config=_without_paths(record.config))


def _without_paths(value: Any) -> Any:
    """Plain values, with absolute paths shortened to their last parts."""
    if isinstance(value, Mapping):
        return {str(key): _shared(part) if key == "src" else _without_paths(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(part) for part in value]
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return shortened(str(value)) if _ROOTED.match(str(value)) else str(value)


def _shared(source: Any) -> Any:
    """Shorten ``src``, also if it is relative, which can contain a user name too."""
    if isinstance(source, (list, tuple)):
        return [_shared(each) for each in source]
    return shortened(source) if isinstance(source, str) and source else source


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> float | None:
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        value = value.item()
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
