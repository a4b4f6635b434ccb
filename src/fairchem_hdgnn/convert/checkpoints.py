"""Convert checkpoint files of other implementations to files that fairchem and this package open."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairchem_hdgnn.convert.authors_hdgnn import authors_config, from_authors_hdgnn
from fairchem_hdgnn.convert.converted import Converted, require_absent, require_raw
from fairchem_hdgnn.convert.fairchem_escn import escn_config, from_fairchem_escn
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.checkpoints import MODEL_VERSION, read_checkpoint, write_checkpoint
from fairchem_hdgnn.host.models import PlainModel
from fairchem_hdgnn.host.training_record import KEY, of_checkpoint
from fairchem_hdgnn.host.which import Host, installed_host, refusal
from fairchem_hdgnn.models.so3.grid import fibonacci_points


@dataclass(frozen=True)
class Source:
    """An implementation whose checkpoints can be converted.

    Attributes:
        description: for help texts.
        model_name: dotted name of this package's model.
        keys: maps its constructor arguments to this package's keys.
        build: makes this package's model from its constructor arguments and weights.
        constants: pattern of the names in its state dict that are not trained.
    """

    description: str
    model_name: str
    keys: Callable[[Mapping[str, Any]], dict[str, Any]]
    build: Callable[[Mapping[str, Any], Mapping[str, Tensor]], PlainModel]
    constants: str


SOURCES = {
    "fairchem-escn": Source(
        "fairchem's own eSCN, plain or hydra",
        "fairchem_hdgnn.ESCN",
        escn_config,
        from_fairchem_escn,
        r"sphere_points$|sphharm_weights\.|distance_expansion\.offset$",
    ),
    "authors-hdgnn": Source(
        "the code of HDGNN's authors",
        "fairchem_hdgnn.HDGNN",
        authors_config,
        from_authors_hdgnn,
        r"sphere_points$|sphharm_weights\.|distance_expansion\.offset$|output_mask$|\._w3j_|\.gate\.mul\.weight$",
    ),
}
"""Values of ``--from``."""


def convert_checkpoint(
    source: str, path: str | Path, out: str | Path, *, raw_weights: bool = False, trusted: bool = False
) -> Converted:
    """Write a checkpoint of this package with the weights, normalisers and configuration of another one.

    The averaged weights (EMA) are used if the file has them, as in evaluation. The optimiser's state is dropped:
    training from the new file starts at step 0.

    Args:
        source: a key of :data:`SOURCES`.
        path: the checkpoint to convert.
        out: the file to write; it must not exist.
        raw_weights: use the raw weights even if there are averaged ones.
        trusted: see :func:`~fairchem_hdgnn.host.checkpoints.read_checkpoint`.

    Raises:
        DataError: the file cannot be read, or ``out`` exists.
        ConfigError: the model does not match ``source``, or has options that cannot be converted.
    """
    kind, out = SOURCES[source], Path(out)
    if installed_host() is Host.FAIRCHEM_2:
        raise ConfigError(refusal(f"{path}: converting from {source}", Host.FAIRCHEM_1))
    from fairchem_hdgnn.host.fairchem1.config_forms import checkpoint_config  # noqa: PLC0415  needs fairchem 1.10

    require_absent(out)
    checkpoint = read_checkpoint(path, trusted=trusted)
    averaged = bool(checkpoint.get("ema")) and not raw_weights
    try:
        theirs = model_arguments(checkpoint["config"])
        weights = averaged_weights(checkpoint, kind.constants) if averaged else checkpoint["state_dict"]
        model = kind.build(theirs, weights)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    _check_points(path, weights)
    record = of_checkpoint(checkpoint, raw_weights=raw_weights)
    require_raw(path, record.averaged, raw_weights=raw_weights)

    config = checkpoint_config(checkpoint)
    config.pop("model_attributes", None)
    network_config: Any = model.network.config
    keys = {**kind.keys(theirs), "regress_forces": network_config.regress_forces}
    config["model"] = {"name": kind.model_name, **keys}
    contents = {
        "model_version": MODEL_VERSION,
        "config": config,
        "state_dict": model.state_dict(),
        "normalizers": checkpoint["normalizers"],
        "elementrefs": checkpoint.get("elementrefs", {}),
        "val_metrics": checkpoint.get("val_metrics"),
        "ema": None,
        "amp": None,
        KEY: record.as_plain(),
    }
    write_checkpoint(contents, out)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    return Converted(out, kind.model_name, num_parameters, bool(record.averaged))


def model_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments of the model in a checkpoint's configuration, without its name; old or new config format.

    Raises:
        ConfigError: the configuration has no model.
    """
    model = config.get("model")
    if isinstance(model, str):
        return dict(config.get("model_attributes", {}))
    if not isinstance(model, Mapping):
        raise ConfigError("its config has no 'model', so its architecture is unknown; use another checkpoint")
    return {key: value for key, value in model.items() if key != "name"}


def averaged_weights(checkpoint: Mapping[str, Any], constants: str) -> dict[str, Tensor]:
    """The state dict with its trained weights replaced by their moving averages.

    fairchem stores the averages as a list in the order of the trainable parameters, without names. A state dict has
    the same order, with constants and repeated tensors between.

    Raises:
        ConfigError: the list does not fit the state dict.
    """
    weights = dict(checkpoint["state_dict"])
    seen: set[int] = set()
    names = []
    for name, tensor in weights.items():
        if tensor.data_ptr() not in seen and not re.search(constants, name):
            names.append(name)
        seen.add(tensor.data_ptr())
    averages = checkpoint["ema"]["shadow_params"]
    if [weights[name].shape for name in names] != [average.shape for average in averages]:
        raise ConfigError(
            "its averaged weights (EMA) have no names and do not fit the order of its weights; "
            "use the raw weights (--raw-weights)"
        )
    for name, average in zip(names, averages):
        shared = weights[name].data_ptr()
        weights.update({other: average for other, tensor in weights.items() if tensor.data_ptr() == shared})
    return weights


def _check_points(path: str | Path, weights: Mapping[str, Tensor]) -> None:
    """Require this package's sample points of the output heads, as its checkpoints do not store them."""
    for name, points in weights.items():
        if name.endswith("sphere_points") and (points.double() - fibonacci_points(len(points))).abs().max() > 1e-5:
            raise ConfigError(f"{path}: its '{name}' differ from the sample points of this package")
