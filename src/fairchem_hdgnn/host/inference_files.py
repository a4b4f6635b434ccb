"""``inference_ckpt.pt`` of fairchem-core 2, read without running code and written without fairchem.

The file is a pickled object with OmegaConf configs, which ``torch.load(weights_only=True)`` refuses. Here each class
that fairchem stores is read as an inert stand-in of the same name, so neither fairchem nor OmegaConf is needed and none
of their code runs. fairchem itself unpickles any object in the file, and calls the functions that its configs name
(``_target_``).
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.host.checkpoints import load_archive, tensors_by_name, write_checkpoint

CONTAINER = ("fairchem.core.units.mlip_unit.api.inference", "MLIPInferenceCheckpoint")
FIELDS = ("model_config", "model_state_dict", "ema_state_dict", "tasks_config")

_NAMES = [
    CONTAINER,
    ("omegaconf.dictconfig", "DictConfig"),
    ("omegaconf.listconfig", "ListConfig"),
    ("omegaconf.base", "ContainerMetadata"),
    ("omegaconf.base", "Metadata"),
    *(("omegaconf.nodes", f"{kind}Node") for kind in ("Any", "Boolean", "Float", "Integer", "String")),
    ("typing", "Any"),
    ("collections", "defaultdict"),
    *(("builtins", name) for name in ("bool", "dict", "float", "int", "list", "str", "tuple")),
]
"""Classes in files written by unmodified fairchem, as module and name."""


@dataclass(frozen=True)
class InferenceFile:
    """Contents of an ``inference_ckpt.pt`` as plain values.

    Attributes:
        model: config of the model, as in the training's YAML.
        tasks: config of each task.
        weights: weights under fairchem's names.
        averages: the moving averages (EMA) under the same names; fairchem predicts with these. Empty if the training
            had none.
        training_record: plain values about the training, stored in converted files; fairchem ignores it.
    """

    model: dict[str, Any]
    tasks: list[dict[str, Any]]
    weights: dict[str, Tensor]
    averages: dict[str, Tensor]
    training_record: Any = None


class _Inert:
    """Stores the pickled state and does nothing else."""

    def __init__(self, *args: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STAND_INS = [type(name, (_Inert,), {"__module__": module}) for module, name in _NAMES]


def is_inference_file(path: str | Path) -> bool:
    """Whether a file is an inference file of fairchem-core 2, by the class that it names; false for other files."""
    try:
        pickled = torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")  # type: ignore[attr-defined]
    except RuntimeError:
        return False
    return CONTAINER[1].encode() in pickled[:200]


def read_inference_file(path: str | Path, *, trusted: bool = False) -> InferenceFile:
    """Read an ``inference_ckpt.pt`` onto the CPU.

    Args:
        path: the file.
        trusted: unpickle any object in the file; needs fairchem-core 2. Only for files from a source you trust.

    Raises:
        DataError: the file is missing, damaged, or has objects that need ``trusted``.
    """
    contents = load_archive(Path(path), None if trusted else _STAND_INS)
    state = getattr(contents, "state", None) or vars(contents)
    missing = [name for name in FIELDS if name not in state]
    if missing:
        raise DataError(f"{path}: not a checkpoint of fairchem-core 2: no '{missing[0]}' in it")
    model, tasks = (_plain(state[name], path) for name in ("model_config", "tasks_config"))
    weights, averages = (_weights(state[name] or {}) for name in ("model_state_dict", "ema_state_dict"))
    if not isinstance(model, dict) or not isinstance(tasks, list):
        raise DataError(f"{path}: 'model_config' must be a dictionary and 'tasks_config' a list")
    return InferenceFile(model, tasks, weights, averages, state.get("training_record"))


def write_inference_file(contents: InferenceFile, path: Path) -> None:
    """Write an ``inference_ckpt.pt`` for fairchem-core 2, atomically.

    Raises:
        DataError: it cannot be written.
    """
    with _importable(_STAND_INS[0]):
        container: Any = _STAND_INS[0]()
        container.__dict__.update(
            model_config=contents.model,
            model_state_dict=contents.weights,
            # fairchem averages the model inside a wrapper, and compares prefixes by the first name.
            ema_state_dict={
                **{f"module.{name}": tensor for name, tensor in contents.averages.items()},
                "n_averaged": torch.tensor(0),
            },
            tasks_config=contents.tasks,
        )
        if contents.training_record is not None:
            container.__dict__["training_record"] = contents.training_record
        write_checkpoint(container, path)


def _plain(value: Any, path: str | Path) -> Any:
    """A config without OmegaConf's wrappers, which are the real classes in a trusted file, with the same state."""
    if type(value).__module__.startswith("omegaconf"):
        state = value.state if isinstance(value, _Inert) else vars(value)
        value = state["_content"] if "_content" in state else state["_val"]
    if isinstance(value, dict):
        return {key: _plain(part, path) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part, path) for part in value]
    if value is None or isinstance(value, (bool, int, float, str, Tensor)):
        if isinstance(value, str) and value.startswith("${"):
            raise DataError(f"{path}: its config refers to '{value}', which is not in the file")
        return value
    raise DataError(f"{path}: its config contains a {type(value).__name__}, not a plain value")


def _weights(state: dict[str, Any]) -> dict[str, Tensor]:
    return tensors_by_name({name: value for name, value in state.items() if name != "n_averaged"})


@contextlib.contextmanager
def _importable(stand_in: type) -> Iterator[None]:
    """Let pickle find a class under the module that it names, even if that is not installed."""
    name = stand_in.__module__
    before = sys.modules.get(name)
    module = types.ModuleType(name)
    setattr(module, stand_in.__name__, stand_in)
    sys.modules[name] = module
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
