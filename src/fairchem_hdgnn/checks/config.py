"""Run all checks in order, for a config and for a trainer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from fairchem.core.common.registry import registry
from fairchem.core.datasets.base_dataset import create_dataset
from fairchem.core.trainers import OCPTrainer
from torch import nn

from fairchem_hdgnn.checks.batch_size import batch_size_findings
from fairchem_hdgnn.checks.files import checkpoint_bytes, disk_findings, same_file_findings
from fairchem_hdgnn.checks.findings import Finding, error, finding_of, one_line, warning
from fairchem_hdgnn.checks.keys import key_findings
from fairchem_hdgnn.checks.loggers import logger_findings
from fairchem_hdgnn.checks.records import LARGE_SYSTEM, Needs, record_findings
from fairchem_hdgnn.checks.schedule import schedule_findings
from fairchem_hdgnn.checks.stages import NamedStages, naming
from fairchem_hdgnn.checks.targets import target_findings
from fairchem_hdgnn.checks.trial import try_steps
from fairchem_hdgnn.errors import DataError, UserError, nearest
from fairchem_hdgnn.host.checkpoints import quiet_fairchem
from fairchem_hdgnn.host.fairchem1.accumulation import steps_of_epoch
from fairchem_hdgnn.host.fairchem1.config_files import splits_of
from fairchem_hdgnn.host.fairchem1.fine_tuning import FineTuningTrainer
from fairchem_hdgnn.host.fairchem1.noisy_nodes import teach_transform
from fairchem_hdgnn.host.fairchem1.safe_lmdb import safe_format

NEEDED = {"trainer", "model", "outputs", "optim", "optim.optimizer_params"}
"""Sections whose errors, like those of the data sets, prevent building the model and opening the data."""

TASKS = {"forces": "s2ef", "equiformerv2_forces": "s2ef", "energy": "is2re", "equiformerv2_energy": "is2re"}
"""Older trainer name -> fairchem's name for the task; any other is ``ocp``."""

LARGE_RATIO = 4
"""Multiple of the median system; a batch size that fits most systems does not fit larger ones."""


def config_findings(config: dict[str, Any], run_dir: Path, num_ranks: int = 1) -> Iterator[Finding]:
    """Check a fairchem config: keys, logger, model, data sets, disk and, if these are valid, one step of training.

    Everything runs on the CPU, whatever the run will use; for the largest models that takes some seconds.

    Args:
        config: the config, as in its file.
        run_dir: the run's ``--run-dir``.
        num_ranks: ranks of the run.
    """
    fatal = False
    for finding in _findings_without_trial(config, run_dir, num_ranks):
        fatal |= finding.fatal
        yield finding
    if not fatal:
        yield from trial_findings(config, run_dir)


def _findings_without_trial(config: dict[str, Any], run_dir: Path, num_ranks: int) -> Iterator[Finding]:
    found = [*key_findings(config), *batch_size_findings(config, num_ranks), *logger_findings(config)]
    yield from found
    if any(finding.fatal and (finding.subject in NEEDED or finding.subject.startswith("dataset")) for finding in found):
        return
    model, problem = _build(config["model"])
    if problem is not None:
        yield problem
    splits = splits_of(config)
    if "train" not in splits:
        yield error("dataset.train.src", "is missing", "set it to the training data")
    yield from same_file_findings(splits)
    data_sets = {}
    for name, settings in splits.items():
        with quiet_fairchem():
            data_sets[name], problem = _open(name, settings)
        if problem is not None:
            yield problem
    optim_is_valid = not any(finding.fatal and finding.subject.startswith("optim.") for finding in found)
    if data_sets.get("train") is not None and optim_is_valid:
        steps = steps_of_epoch(config["optim"], len(data_sets["train"]), num_ranks)
        yield from schedule_findings(config["optim"], config["optim"]["max_epochs"] * steps)
    if model is not None:
        yield from output_findings(model, config["outputs"])
        yield from data_findings(model, config, {name: data for name, data in data_sets.items() if data is not None})
        yield from disk_findings(run_dir / "checkpoints", checkpoint_bytes(model, config["optim"]))


def output_findings(model: nn.Module, outputs: dict[str, Any]) -> Iterator[Finding]:
    """Report outputs that this plugin's models do not predict; other models do not declare their outputs."""
    if not hasattr(model, "output_name"):
        return
    vector = getattr(model, "vector_name", "forces")
    predicted = {str(model.output_name), *([vector] if model.regress_forces else [])}
    for name in outputs:
        if name not in predicted:
            remedy = (
                "set model.regress_forces: true"
                if name == vector
                else "set model.output_name to this name, or correct the name"
            )
            yield error(f"outputs.{name}", f"the model predicts {' and '.join(sorted(predicted))}", remedy)


def data_findings(model: nn.Module, config: dict[str, Any], data_sets: dict[str, Any]) -> Iterator[Finding]:
    """Check a sample of each data set, as the trainer reads it, against the model and the config.

    Args:
        model: the model; its cutoff, elements and similar attributes are read.
        config: the config; its ``outputs``, ``dataset`` and ``optim`` are read.
        data_sets: fairchem's data sets by split.
    """
    needs = Needs.of(model, config["outputs"])
    splits = splits_of(config)
    for name, dataset in data_sets.items():
        found = list(record_findings(name, dataset, needs, labelled=name in ("train", "val")))
        yield from found
        if splits[name].get("max_atoms") is None:
            yield from _size_findings(name, dataset)
        if name == "train" and not any(finding.fatal for finding in found):
            transforms = splits[name].get("transforms") or {}
            yield from target_findings(transforms, dataset, needs.targets, needs.on_free_atoms)
        if config["optim"].get("load_balancing") and not dataset.metadata_hasattr("natoms"):
            yield warning(
                f"dataset.{name}",
                "has no metadata.npz, which load_balancing needs",
                "create it, or remove load_balancing",
            )


def trial_findings(config: dict[str, Any], run_dir: Path) -> Iterator[Finding]:
    """Build the trainer as for a run, try one step, and report what fails; nothing is written.

    Args:
        config: a config that passed the other checks.
        run_dir: the run's ``--run-dir``.
    """
    kind = registry.get_trainer_class(config.get("trainer") or "ocp")
    if not issubclass(kind, OCPTrainer):
        return
    try:
        with quiet_fairchem(warnings_too=True), warnings.catch_warnings(), naming("trainer", "correct the config"):
            # For example torch's warnings about this machine's cores; the run may use another machine.
            warnings.simplefilter("ignore")
            trainer = type(kind.__name__, (_Trial, kind), {})(
                task=config.get("task") or {},
                model=copy.deepcopy(config["model"]),
                outputs=copy.deepcopy(config["outputs"]),
                dataset={name: _safe(settings) for name, settings in splits_of(config).items()},
                optimizer=copy.deepcopy(config["optim"]),
                loss_functions=copy.deepcopy(config["loss_functions"]),
                evaluation_metrics=copy.deepcopy(config.get("evaluation_metrics") or {}),
                identifier="check",
                timestamp_id="check",
                local_rank=0,
                run_dir=str(run_dir),
                is_debug=True,
                seed=0,
                logger=config.get("logger") or "tensorboard",
                amp=bool(config.get("amp", False)),
                cpu=True,
                name=TASKS.get(str(config.get("trainer")), "ocp"),
            )
            if isinstance(trainer, FineTuningTrainer):
                trainer.initialise()
            try_steps(trainer)
    except UserError as problem:
        yield finding_of(problem)


class _Trial(NamedStages):
    """Mixin for the config's trainer that skips its checks: ``check`` has already run them."""

    def inspect_config(self) -> None:
        pass

    def inspect_data(self) -> None:
        pass


def _safe(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with a format that cannot run code: checking a file must not execute its contents."""
    return {**settings, "format": safe_format(settings.get("format", "lmdb"))}


def _build(settings: Any) -> tuple[nn.Module | None, Finding | None]:
    """The model, or a finding that says why it cannot be built."""
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        return None, error("model.name", "is missing", "write fairchem_hdgnn.HDGNN or fairchem_hdgnn.ESCN")
    keys = copy.deepcopy(settings)
    name = keys.pop("name")
    try:
        kind = registry.get_model_class(name)
    except (RuntimeError, ImportError, ValueError):
        known = {*registry.mapping["model_name_mapping"], "fairchem_hdgnn.HDGNN", "fairchem_hdgnn.ESCN"}
        close = nearest(name, known)
        hint = f"; did you mean '{close}'?" if close else ""
        return None, error("model.name", f"fairchem has no model '{name}'{hint}", "correct it, or install its package")
    try:
        with quiet_fairchem():
            return kind(**keys), None
    except UserError as problem:
        return None, error("model", str(problem))
    except Exception as problem:
        return None, error("model", f"cannot be built: {one_line(problem)}", "correct its keys")


def _open(name: str, settings: dict[str, Any]) -> tuple[Any, Finding | None]:
    """fairchem's data set, or a finding that says why it cannot be opened."""
    settings = copy.deepcopy(_safe(settings))
    if f"{name}_split_settings" in settings:
        settings["splits"] = {name: settings.pop(f"{name}_split_settings")}
    try:
        dataset = create_dataset(settings, name)
        teach_transform(dataset)
        return dataset, None
    except DataError as problem:
        return None, error(f"dataset.{name}", str(problem).removeprefix(f"dataset.{name}: "))
    except Exception as problem:
        return None, error(f"dataset.{name}", f"cannot be opened: {one_line(problem)}", "correct its keys")


def _size_findings(name: str, dataset: Any) -> Iterator[Finding]:
    if not dataset.metadata_hasattr("natoms"):
        return
    natoms = np.asarray(dataset.get_metadata("natoms", list(range(len(dataset)))))
    largest, typical = int(natoms.max()), int(np.median(natoms))
    if largest > max(LARGE_RATIO * typical, LARGE_SYSTEM // LARGE_RATIO):
        yield warning(
            f"dataset.{name}",
            f"its largest system has {largest} atoms, the median {typical}; a batch of large ones may not fit",
            "drop the largest with max_atoms, or lower optim.batch_size",
        )
