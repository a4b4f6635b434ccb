"""Checkpoints of fairchem: read without running code, upgraded to the current layout, written atomically."""

from __future__ import annotations

import contextlib
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.files import complete_or_absent
from fairchem_hdgnn.host.which import ignore_jit_script

TRUST = "if you trust its source, pass --trust-checkpoint (Python: trusted=True)"
REQUIRED_KEYS = ("config", "state_dict", "normalizers")

MODEL_VERSION = 1
"""Version of the current layout. Incremented if names, shapes, order or meaning of parameters change."""

UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Version -> function that converts a checkpoint of this version to the next one.

It receives whole checkpoints, including averaged weights (EMA, a list in the order of parameters) and optimiser state,
and must leave other models' checkpoints unchanged: fairchem's own trainer writes no version.
"""


def read_checkpoint(path: str | Path, *, trusted: bool = False) -> dict[str, Any]:
    """Read a fairchem checkpoint onto the CPU, in the current layout of parameters.

    Only tensors and plain Python values are read, so an untrusted file cannot run code. That needs more than
    ``torch.load(weights_only=True)``, which up to torch 2.5 opens TorchScript archives, which can run code, and tar
    archives (CVE-2025-32434). fairchem's own loaders unpickle everything.

    Args:
        path: ``checkpoint.pt`` or ``best_checkpoint.pt``.
        trusted: unpickle any object in the file. Only for files from a source you trust.

    Raises:
        DataError: the file is missing, not a checkpoint, from a later release, or has objects that need ``trusted``.
    """
    checkpoint = load_archive(Path(path), None if trusted else [])
    if not isinstance(checkpoint, dict):
        raise DataError(
            f"{path}: not a fairchem checkpoint: it contains a {type(checkpoint).__name__}, not a dictionary"
        )
    missing = [key for key in REQUIRED_KEYS if key not in checkpoint]
    if missing:
        raise DataError(f"{path}: not a fairchem checkpoint: no '{missing[0]}' in it")
    return upgraded(checkpoint, path)


def load_archive(path: Path, allowed: Sequence[type] | None) -> Any:
    """Read a file written by ``torch.save`` onto the CPU.

    Args:
        path: the file.
        allowed: classes that may be instantiated, besides tensors and plain Python values, by their ``__module__`` and
            ``__name__``; ``None``: any.

    Raises:
        DataError: the file is missing, not a PyTorch file, or contains another class.
    """
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a checkpoint in it{_neighbours(path / 'any')}")
    if not path.is_file():
        raise DataError(f"{path}: no such checkpoint{_neighbours(path)}")
    try:
        if allowed is not None:
            _check_archive(path)
        with warnings.catch_warnings(), _also_safe(allowed or []):
            warnings.filterwarnings("ignore", message="Detected pickle protocol", category=UserWarning)
            return torch.load(path, map_location="cpu", weights_only=allowed is not None)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            culprit = str(error).split("GLOBAL", 1)[1].split()[0]
            raise DataError(
                f"{path}: contains a pickled {culprit}, which can run code when it is read; {TRUST}"
            ) from error
        raise DataError(f"{path}: not a PyTorch checkpoint") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a PyTorch checkpoint, or truncated") from error
    except ImportError as error:
        raise DataError(f"{path}: contains objects of a package that is not installed ({error}); install it") from error


@contextlib.contextmanager
def _also_safe(classes: Sequence[type]) -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` instantiate these classes too."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(list(classes))
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def upgraded(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Convert a checkpoint to the current layout; one without ``model_version`` has version 1, that of release 0.1.0.

    Args:
        checkpoint: contents of ``path``.
        path: for messages.

    Raises:
        DataError: its version is not known to this package.
    """
    version = checkpoint.get("model_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DataError(f"{path}: its 'model_version' must be a whole number from 1, not {version!r}")
    if version > MODEL_VERSION:
        raise DataError(
            f"{path}: written by a later fairchem-hdgnn (model_version {version}, known up to {MODEL_VERSION}); "
            "upgrade fairchem-hdgnn"
        )
    for number in range(version, MODEL_VERSION):
        checkpoint = {**UPGRADES[number](checkpoint), "model_version": number + 1}
    return checkpoint


def write_checkpoint(state: object, path: Path) -> None:
    """Write ``state`` to ``path`` atomically, and delete partial files left by killed processes.

    Raises:
        DataError: it cannot be written; an existing file is unchanged.
    """
    try:
        with complete_or_absent(path) as temporary:
            torch.save(state, temporary)
    except RuntimeError as error:
        # torch raises this if the disk is full.
        raise DataError(f"{path}: cannot be written ({error}); an existing file is unchanged") from error
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _check_archive(path: Path) -> None:
    """Refuse files that ``torch.load`` does not unpickle itself but passes to TorchScript or tarfile."""
    with path.open("rb") as stream:
        start = stream.read(4)
    if start != b"PK\x03\x04":
        raise DataError(
            f"{path}: not a PyTorch checkpoint, or truncated; one from before torch 1.6 needs --trust-checkpoint"
        )
    # torch's own reader: another one might find different members in a forged archive.
    if "constants.pkl" in torch._C.PyTorchFileReader(str(path)).get_all_records():  # type: ignore[attr-defined]
        raise DataError(f"{path}: a TorchScript archive, which can run code when it is opened, not a checkpoint")


def _neighbours(path: Path) -> str:
    found = sorted(other.name for other in path.parent.glob("*.pt")) if path.parent.is_dir() else []
    return f"; {path.parent}/ has: {', '.join(found)}" if found else ""


def check_fits(
    checkpoint: Mapping[str, Any],
    model: nn.Module,
    config: Mapping[str, Any],
    path: str | Path,
    *,
    inference_only: bool,
) -> None:
    """Refuse weights that do not match the config's model, and the state of a different optimiser.

    Args:
        checkpoint: contents of ``path``.
        model: model that is to load the weights.
        config: config from which ``model`` was built.
        path: for the message.
        inference_only: whether the optimiser's state is ignored.

    Raises:
        DataError: a weight is missing, superfluous or of another shape (the message names the model keys that differ),
            or the optimiser differs.
    """
    there, here = (
        {name: list(value.shape) for name, value in tensors_by_name(state).items()}
        for state in (checkpoint["state_dict"], model.state_dict())
    )
    stored, task = checkpoint["config"], config.get("task") or {}
    if there != here and task.get("strict_load", True):
        culprit = next(name for name in [*here, *there] if there.get(name) != here.get(name))
        sizes = f"{culprit} is {there.get(culprit, 'absent')} in the file, {here.get(culprit, 'absent')} in the model"
        old, new = dict(stored.get("model") or {}), config["model"]
        reasons = [
            f"model.{name}: {old.get(name)} in the file, {new.get(name)} in the config"
            for name in {**old, **new}
            if old.get(name) != new.get(name)
        ]
        raise DataError(
            f"{path}: its weights do not match this config's model ({'; '.join(reasons[:5]) or sizes}); use the config "
            "that it was trained with, another --checkpoint or, for a new run, another --timestamp-id"
        )
    if "optimizer" not in checkpoint or inference_only:
        return
    before, now = (_kinds_of_state(part["optim"]) for part in (stored, config))
    for key in before:
        if before[key] != now[key]:
            raise DataError(
                f"{path}: was trained with {key} {before[key]}, so it has no state for {now[key]}; keep it, or start "
                "from best_checkpoint.pt, which contains weights only"
            )


def _kinds_of_state(optim: Mapping[str, Any]) -> dict[str, str]:
    """The settings that decide what the states of optimizer and scheduler contain."""
    decay = optim.get("weight_decay", (optim.get("optimizer_params") or {}).get("weight_decay"))
    return {
        "optim.optimizer": optim.get("optimizer", "AdamW"),
        "optim.scheduler": optim.get("scheduler", "LambdaLR (the default)"),
        # fairchem splits the parameters into two groups if it is positive.
        "weight decay": "above 0" if float(decay or 0) > 0 else "0",
    }


def tensors_by_name(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without the prefixes that DDP and averages of weights add to all names."""
    found = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    while found and all(name.startswith("module.") for name in found):
        found = {name.removeprefix("module."): value for name, value in found.items()}
    return found


@contextlib.contextmanager
def quiet_fairchem(*, warnings_too: bool = False) -> Iterator[None]:
    """Silence fairchem's INFO lines (it prints the whole config) and torch's warnings about what it calls."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING if warnings_too else logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You are using `torch.load`", category=FutureWarning)
            ignore_jit_script()
            yield
    finally:
        logging.disable(disabled)
