"""Convert checkpoints of fairchem's own eSCN."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairchem_hdgnn.convert.weights import Weights
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.escn.config import ESCNConfig
from fairchem_hdgnn.models.nn.heads import SphereReadout
from fairchem_hdgnn.models.ops.so2 import num_terms, order_of_term, terms_of_order

if TYPE_CHECKING:
    from fairchem_hdgnn.host.fairchem1.models import ESCN

OWNER = "fairchem's eSCN"

_DEFAULTS: dict[str, Any] = {
    "use_pbc": True,
    "use_pbc_single": False,
    "otf_graph": False,
    "max_neighbors": 40,
    "cutoff": 8.0,
    "max_num_elements": 90,
    "num_layers": 8,
    "sphere_channels": 128,
    "hidden_channels": 256,
    "edge_channels": 128,
    "num_sphere_samples": 128,
    "distance_function": "gaussian",
    "distance_resolution": 0.02,
    "resolution": None,
}
"""fairchem's defaults of the keys with the same meaning in both."""

_IGNORED = {"name", "model", "show_timing_info", "activation_checkpoint", "regress_forces", "direct_forces"}
"""Keys without effect on the results; the weights show whether there are forces."""

_NAMES = {
    "backbone.element_embedding": "sphere_embedding",
    "backbone.basis.linear": "distance_expansion.fc1",
    "message.edge_embedding.distance": "message_block.edge_block.fc1_dist",
    "message.edge_embedding.source": "message_block.edge_block.source_embedding",
    "message.edge_embedding.target": "message_block.edge_block.target_embedding",
    "message.edge_embedding.output": "message_block.edge_block.fc1_edge_attr",
    **{f"update.{ours}": f"fc{k}_sphere" for k, ours in enumerate(("first", "second", "third"), 1)},
    **{
        f"{head}.{ours}": f"{theirs}.fc{k}"
        for head, theirs in (("energy_head.sphere.readout", "energy_block"), ("force_head.readout", "force_block"))
        for k, ours in enumerate(("first", "second", "third"), 1)
    },
}
"""Our modules -> theirs, outside the SO(2) convolutions; those of a layer without the layer's prefix."""

_INPUTS = ("so2_block_source", "so2_block_target")


def escn_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of this package for the constructor arguments of fairchem's ``escn``, or its ``hydra`` form.

    Raises:
        ConfigError: several resolutions, or an argument that cannot be converted.
    """
    if "backbone" in config:
        return {**escn_config(config["backbone"]), **_head_config(config.get("heads", {}))}
    known = {*_DEFAULTS, *_IGNORED, "lmax_list", "mmax_list", "basis_width_scalar"}
    for name in config:
        if name not in known:
            raise ConfigError(f"{OWNER}: key '{name}' is unknown and cannot be converted")
    keys = {name: config.get(name, default) for name, default in _DEFAULTS.items()}
    for name, default in (("lmax_list", [6]), ("mmax_list", [2])):
        values = config.get(name) or default
        if len(values) != 1:
            raise ConfigError(f"{OWNER}: '{name}' is {list(values)}; only one resolution can be converted")
        keys[name.removesuffix("_list")] = int(values[0])
    keys["cutoff"] = float(keys["cutoff"])
    return {**keys, "basis_width": float(config.get("basis_width_scalar", 1.0)), "energy_scale": 0.001}


def _head_config(heads: Mapping[str, Any]) -> dict[str, Any]:
    reductions = {head.get("reduce", "sum") for head in heads.values() if "energy" in head.get("module", "")}
    if len(reductions) > 1:
        raise ConfigError(f"{OWNER}: several energy heads with different 'reduce' cannot be converted")
    # fairchem scales the sum, not the mean.
    return {"energy_scale": 1.0, "energy_reduction": "mean"} if reductions == {"mean"} else {}


def from_fairchem_escn(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> ESCN:
    """Build :class:`ESCN` from the constructor arguments and weights of fairchem's eSCN.

    Args:
        config: arguments of fairchem's ``escn``, or the ``model`` section of a ``hydra`` with its backbone and heads;
            missing ones have fairchem's defaults.
        state_dict: weights of either, with or without ``module.`` prefixes.

    Returns:
        A model in the dtype of the weights.

    Raises:
        ConfigError: several resolutions, an argument that cannot be converted, or weights that do not fit.
    """
    # The rest of this module works without fairchem.
    from fairchem_hdgnn.host.fairchem1.models import ESCN  # noqa: PLC0415

    theirs = plain_names(state_dict)
    keys = escn_config(config)
    model = ESCN(**keys, regress_forces=any(name.startswith("force_block.") for name in theirs))
    network = model.network
    for readout in network.modules():
        if isinstance(readout, SphereReadout):
            readout.use_points(theirs.take("sphere_points"))
    network.to(theirs.take("sphere_embedding.weight").dtype)
    network.load_state_dict(convert_weights(theirs, network.config, network.state_dict()))
    return model


def plain_names(state_dict: Mapping[str, Tensor]) -> Weights:
    """Weights under the names of the plain model, from a plain or a hydra state dict."""
    names = Weights(OWNER, state_dict)
    if not any(name.startswith("output_heads.") for name in names):
        return names
    plain = {}
    for name, tensor in names.items():
        backbone, head = re.match(r"backbone\.(.*)", name), re.match(r"output_heads\.[^.]+\.(.*)", name)
        if head:
            plain[head[1]] = tensor
        # A backbone may have an unused output block of its own.
        elif backbone and not re.match(r"(energy|force)_block\.", backbone[1]):
            plain[backbone[1]] = tensor
    return Weights(OWNER, plain)


def convert_weights(theirs: Weights, config: ESCNConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """This package's state dict from fairchem's (or gradients: the map is a rearrangement).

    Args:
        theirs: fairchem's tensors under the plain model's names.
        config: this package's configuration.
        ours: this package's current state dict, for names and shapes.

    Raises:
        ConfigError: a tensor is missing or does not have the shape that the configuration requires.
    """
    converted = {}
    for name, current in ours.items():
        layer = re.match(r"backbone\.layers\.(\d+)\.(.*)", name)
        prefix, local = (f"layer_blocks.{layer[1]}.", layer[2]) if layer else ("", name)
        if local.startswith("message.convolution."):
            tensor = _convolution_weight(theirs, prefix + "message_block.", local.split(".", 2)[2], config)
        else:
            module, leaf = local.rsplit(".", 1)
            tensor = theirs.take(f"{prefix}{_NAMES[module]}.{leaf}")
        if tensor.shape != current.shape:
            raise ConfigError(
                f"{OWNER}: the weights for '{name}' have shape {tuple(tensor.shape)}, but the configuration "
                f"requires {tuple(current.shape)}"
            )
        converted[name] = tensor
    return converted


def _convolution_weight(theirs: Weights, prefix: str, local: str, config: ESCNConfig) -> Tensor:
    """One parameter of this package's SO(2) convolution, ``scale.*``, ``inner.l`` or ``outer.m``, from both blocks."""
    kind, index = local.split(".")
    if kind == "scale":
        parts = [
            _scale(theirs, prefix, block, term, index) for term in range(num_terms(config.mmax)) for block in _INPUTS
        ]
        return torch.cat(parts)
    if kind == "outer":
        terms = terms_of_order(int(index))
        return torch.cat([_linear(theirs, prefix, block, term, 2, config).T for term in terms for block in _INPUTS])
    degree = int(index)
    blocks = []
    for block in _INPUTS:
        columns = []
        for term in range(num_terms(min(degree, config.mmax))):
            by_degree = _linear(theirs, prefix, block, term, 1, config).unflatten(1, (-1, config.sphere_channels))
            columns.append(by_degree[:, degree - order_of_term(term)].T)
        blocks.append(torch.cat(columns, 1))
    return torch.stack(blocks)


def _linear(theirs: Weights, prefix: str, block: str, term: int, layer: int, config: ESCNConfig) -> Tensor:
    """Weight of fairchem's first (1) or second (2) linear layer of a term."""
    order, part = order_of_term(term), "r" if term % 2 else "i"
    name = f"fc{layer}_m0.weight" if term == 0 else f"so2_conv.{order - 1}.fc{layer}_{part}.weight"
    width = (config.lmax + 1 - order) * config.sphere_channels
    expected = (config.hidden_channels, width) if layer == 1 else (width, config.hidden_channels)
    return theirs.take(f"{prefix}{block}.{name}", expected)


def _scale(theirs: Weights, prefix: str, block: str, term: int, leaf: str) -> Tensor:
    """fairchem's ``weight`` or ``bias`` of the layer that computes a term's scales."""
    if term == 0:
        return theirs.take(f"{prefix}{block}.fc1_dist0.{leaf}")
    both = theirs.take(f"{prefix}{block}.so2_conv.{order_of_term(term) - 1}.fc1_dist.{leaf}")
    return both.chunk(2)[1 - term % 2]
