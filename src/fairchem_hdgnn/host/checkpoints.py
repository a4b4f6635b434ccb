"""Checkpoints of fairchem: read without running code, and opened as a trainer ready to predict."""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from fairchem.core.common.registry import registry
from fairchem.core.common.utils import setup_imports, update_config
from fairchem.core.modules.exponential_moving_average import ExponentialMovingAverage
from fairchem.core.trainers import OCPTrainer

from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.model_version import upgraded

TRUST = "if you know where the file comes from, pass --trust-checkpoint (Python: trusted=True)"
REQUIRED_KEYS = ("config", "state_dict", "normalizers")


def read_checkpoint(path: str | Path, *, trusted: bool = False) -> dict[str, Any]:
    """The contents of a fairchem checkpoint, on the CPU, in the present layout of parameters.

    Only tensors and plain Python values are read, so a file from a stranger cannot run code here. That takes more
    than ``torch.load(weights_only=True)``, which up to torch 2.5 opens TorchScript archives, and those run code, and
    tar archives (CVE-2025-32434). fairchem's own loaders unpickle everything.

    Args:
        path: ``checkpoint.pt`` or ``best_checkpoint.pt``.
        trusted: unpickle whatever the file holds. Only for files whose origin you know.

    Raises:
        DataError: the file is missing, is no checkpoint, is of a later release, or holds objects that need ``trusted``.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint{_neighbours(path)}")
    try:
        if not trusted:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            checkpoint = torch.load(path, map_location="cpu", weights_only=not trusted)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            culprit = str(error).split("GLOBAL", 1)[1].split()[0]
            raise DataError(
                f"{path}: holds a pickled {culprit}, which can run code when it is read; {TRUST}"
            ) from error
        raise DataError(f"{path}: not a PyTorch checkpoint") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a PyTorch checkpoint, or cut short") from error
    if not isinstance(checkpoint, dict):
        raise DataError(f"{path}: not a fairchem checkpoint: it holds a {type(checkpoint).__name__}, not a dictionary")
    missing = [key for key in REQUIRED_KEYS if key not in checkpoint]
    if missing:
        raise DataError(f"{path}: not a fairchem checkpoint: no '{missing[0]}' in it")
    return upgraded(checkpoint, path)


def write_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Put ``state`` at ``path`` atomically, and clear away what killed processes left half-written.

    Raises:
        DataError: it cannot be written; what was there before is intact.
    """
    try:
        with complete_or_absent(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:
        # What torch makes of a full disk.
        raise DataError(f"{path}: cannot be written ({error}); what was there before is intact") from error
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _check_archive(path: Path) -> None:
    """Refuse what ``torch.load`` does not unpickle itself but hands to TorchScript or tarfile."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start != b"PK\x03\x04":
        raise DataError(
            f"{path}: not a PyTorch checkpoint, or cut short; one of before torch 1.6 needs --trust-checkpoint"
        )
    # torch's own reader, because another one might see other members in a forged archive.
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():  # type: ignore[attr-defined]
        raise DataError(f"{path}: a TorchScript archive, which can run code when it is opened, not a checkpoint")


def _neighbours(path: Path) -> str:
    found = sorted(other.name for other in path.parent.glob("*.pt")) if path.parent.is_dir() else []
    return f"; in {path.parent}/ there are: {', '.join(found)}" if found else ""


def checkpoint_config(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration stored in a checkpoint, in fairchem 1.10's form (older forms are converted)."""
    with quiet_fairchem():
        return dict(update_config(checkpoint["config"]))


def inference_trainer(
    path: str | Path,
    *,
    cpu: bool = False,
    device_index: int = 0,
    seed: int = 0,
    model_overrides: Mapping[str, Any] | None = None,
    trusted: bool = False,
) -> OCPTrainer:
    """fairchem's trainer with a checkpoint's weights, in float32 without mixed precision, and no data sets.

    The averaged weights (EMA) are used where the checkpoint has them, as fairchem's ``validate`` does;
    its inference-only loader would take the raw ones from ``checkpoint.pt``.

    Args:
        path: the checkpoint.
        cpu: stay on the CPU although a GPU is there.
        device_index: which GPU.
        seed: for models that draw random numbers in prediction, such as HDGNN's edge frames.
        model_overrides: keys of ``model:`` that replace those in the checkpoint, e.g. ``{"frames": "fixed"}``.
        trusted: see ``read_checkpoint``.

    Raises:
        DataError: the checkpoint cannot be read, or its weights do not fit the model.
        ConfigError: the model it names is not registered.
    """
    checkpoint = read_checkpoint(path, trusted=trusted)
    config = checkpoint_config(checkpoint)
    with quiet_fairchem():
        setup_imports()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    with quiet_fairchem():
        trainer_class = registry.get_trainer_class(config.get("trainer", "ocp"))
        trainer = trainer_class(
            task=config.get("task", {}),
            model={**config["model"], **(model_overrides or {}), "name": _model_name(config, path)},
            outputs=config["outputs"],
            dataset=[config["dataset"]],
            optimizer=config["optim"],
            loss_functions=config["loss_functions"],
            evaluation_metrics=config["evaluation_metrics"],
            identifier="",
            timestamp_id="inference",
            local_rank=device_index,
            is_debug=True,
            seed=seed,
            amp=False,
            cpu=cpu,
            inference_only=True,
        )
        load_weights(trainer, checkpoint, path)
    return cast(OCPTrainer, trainer)


def load_weights(trainer: OCPTrainer, checkpoint: Mapping[str, Any], path: str | Path) -> None:
    """Put a checkpoint's weights, normalisers and element references into ``trainer``, EMA weights first."""
    try:
        trainer.load_checkpoint(str(path), dict(checkpoint), inference_only=True)
    except RuntimeError as error:
        raise DataError(f"{path}: its weights do not fit its model: {' '.join(str(error).split())[:300]}") from error
    if checkpoint.get("ema"):
        averages = ExponentialMovingAverage(trainer.model.parameters(), decay=checkpoint["ema"]["decay"])
        averages.load_state_dict(checkpoint["ema"])
        averages.copy_to()


def _model_name(config: Mapping[str, Any], path: str | Path) -> str:
    """The registered or dotted name of the checkpoint's model, once it is sure that it can be imported."""
    name = config["model"].get("name")
    try:
        registry.get_model_class(name)
    except (RuntimeError, ImportError) as error:
        raise ConfigError(
            f"{path}: its model '{name}' is not known to fairchem here; install the package that provides it, "
            "and write model.name as a dotted path such as fairchem_hdgnn.HDGNN"
        ) from error
    return str(name)


@contextlib.contextmanager
def quiet_fairchem() -> Iterator[None]:
    """Silence fairchem's INFO lines (it prints the whole configuration) and its own use of ``torch.load``."""
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using `torch.load`", category=FutureWarning)
            yield
    finally:
        logging.disable(disabled)
