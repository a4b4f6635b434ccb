"""Convert checkpoints of the HDGNN authors' code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from fairchem_hdgnn.convert.weights import Weights
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.models.hdgnn.edge_product import EdgeProduct
from fairchem_hdgnn.models.hdgnn.layer import Layer
from fairchem_hdgnn.models.so3.clebsch_gordan import Path, natural_parity_paths

if TYPE_CHECKING:
    from fairchem_hdgnn.host.fairchem1.models import HDGNN

OWNER = "authors' HDGNN"

_KEYS: dict[str, tuple[str, Any]] = {
    "num_interactions": ("num_layers", 16),
    "lmax": ("lmax", 6),
    "mmax": ("mmax", 1),
    "sphere_channels": ("sphere_channels", 128),
    "sphere_channels_l0": ("invariant_channels", 256),
    "hidden_channels": ("hidden_channels", 512),
    "num_sphere_samples": ("num_sphere_samples", 128),
    "num_basis_functions": ("edge_channels", 128),
    "basis_width_scalar": ("basis_width", 2.0),
    "distance_resolution": ("distance_resolution", 0.02),
    "cutoff": ("cutoff", 8.0),
    "max_num_neighbors": ("max_neighbors", 40),
    "num_resolutions": ("num_resolutions", 2),
    "max_num_elements": ("max_num_elements", 90),
    "use_pbc": ("use_pbc", True),
    "otf_graph": ("otf_graph", True),
}
"""The authors' names -> this package's, and the authors' defaults."""

_IGNORED = {
    "lmid",
    "num_taps",
    "num_bands",
    "show_timing_info",
    "regress_forces",
    "direct_forces",
    "name",
    "scale_file",
    "num_atoms",
    "bond_feat_dim",
    "num_targets",
}
"""Keys that the authors' forward pass does not use, or that have only one working value, the one of this package. The
weights show whether there are forces."""

_LAYER_NAMES = {
    "edge_embedding.distance": "dist_block.fc1_dist",
    "edge_embedding.source": "dist_block.source_embedding",
    "edge_embedding.target": "dist_block.target_embedding",
    "edge_embedding.output": "dist_block.fc1_edge_attr",
    "update.first": "fc1_sphere",
    "update.second": "fc2_sphere",
    "update.third": "fc3_sphere",
    "update.excitation.first": "SEattention.0",
    "update.excitation.second": "SEattention.2",
    "branch.linear": "fc_edge",
    "norm.weight": "layer_norm.affine_weight",
    "norm.bias": "layer_norm.affine_bias",
}

_BLOCK_NAMES = {
    "message.networks.0.first": "node_interaction1.node_fc1",
    "message.networks.0.second": "node_interaction1.node_fc2",
    "message.networks.1.first": "node_interaction2.node_fc1",
    "message.networks.1.second": "node_interaction2.node_fc2",
    "message.pair_features.linear": "fc1_dist",
    "message.single_features.linear": "fc2_dist",
    "attention.first": "gate.fc1",
    "attention.second": "gate.fc2",
    "message.equivariant.product.bias": "cg1.cg.bias.0",
    "message.full_degree.product.bias": "cg1.cg_all.bias.0",
}

_PRODUCTS = {"message.equivariant.product.product": "cg1.cg", "message.full_degree.product.product": "cg1.cg_all"}

_GLOBAL_NAMES = {
    "backbone.element_embedding": "sphere_embedding",
    "backbone.scalar_embedding": "fc_l0",
    **{f"energy_head.sphere.readout.{ours}": f"energy_fc{k}" for k, ours in enumerate(("first", "second", "third"), 1)},
    **{f"force_head.readout.{ours}": f"force_fc{k}" for k, ours in enumerate(("first", "second", "third"), 1)},
}


def authors_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of this package for the constructor arguments of the authors' HDGNN.

    Raises:
        ConfigError: an option that their code has but cannot run, or that this package does not reproduce.
    """
    for name in config:
        if name not in {*_KEYS, *_IGNORED, "sphere_channels_reduce", "distance_function"}:
            raise ConfigError(f"{OWNER}: key '{name}' is unknown and cannot be converted")
    values = {**{name: default for name, (_, default) in _KEYS.items()}, **config}
    if values.get("sphere_channels_reduce", values["sphere_channels"]) != values["sphere_channels"]:
        raise ConfigError(f"{OWNER}: 'sphere_channels_reduce' must equal 'sphere_channels'")
    if values.get("distance_function", "gaussian") != "gaussian":
        raise ConfigError(f"{OWNER}: only 'distance_function: gaussian' can be converted")
    return {
        **{ours: values[theirs] for theirs, (ours, _) in _KEYS.items()},
        "preset": "authors",
        "lmax_metp": min(2, values["lmax"]),
        # Their flip leaves degree lmax unflipped, which matters if lmax is odd.
        "antipodal": "top_degree_unflipped" if values["lmax"] % 2 else "exact",
    }


def from_authors_hdgnn(config: Mapping[str, Any], state_dict: Mapping[str, Tensor]) -> HDGNN:
    """Build :class:`HDGNN` from the constructor arguments and weights of the authors' HDGNN.

    Args:
        config: arguments under the authors' names; missing ones have the authors' defaults.
        state_dict: their weights, with or without ``module.`` prefixes.

    Returns:
        A model in the dtype of the weights.

    Raises:
        ConfigError: an argument that cannot be converted, or weights that do not fit the arguments.
    """
    # The rest of this module works without fairchem.
    from fairchem_hdgnn.host.fairchem1.models import HDGNN  # noqa: PLC0415

    theirs = Weights(OWNER, state_dict)
    model = HDGNN(**authors_config(config), regress_forces="force_fc1.weight" in theirs)
    network = model.network.to(theirs.take("sphere_embedding.weight").dtype)
    converted = {}
    for name, current in network.state_dict().items():
        if ".product.product." not in name:
            converted[name] = _fitted(theirs, _their_name(name), current)
    for layer_index, layer in enumerate(network.backbone.layers):
        for block_index, block in enumerate(cast(Layer, layer).blocks):
            for ours, authors in _PRODUCTS.items():
                flat = theirs.take(f"edge_blocks.{layer_index}.message_blocks.{block_index}.{authors}.tp.weight")
                for l3, weight in enumerate(split_product_weights(cast(EdgeProduct, block.get_submodule(ours)), flat)):
                    converted[f"backbone.layers.{layer_index}.blocks.{block_index}.{ours}.weight.{l3}"] = weight
    network.load_state_dict(converted)
    return model


def _fitted(theirs: Weights, name: str, current: Tensor) -> Tensor:
    """The authors' weight ``name`` in the shape of ``current``."""
    weight = theirs.take(name)
    if weight.numel() == 0:
        # Integer division made this hidden layer empty; here it has at least one channel, which zeros disconnect.
        return torch.zeros_like(current)
    if weight.numel() != current.numel() or weight.shape[:1] != current.shape[:1]:
        raise ConfigError(
            f"{OWNER}: '{name}' has shape {tuple(weight.shape)}, but the configuration requires {tuple(current.shape)}"
        )
    return weight.reshape(current.shape)


def split_product_weights(product: EdgeProduct, flat: Tensor) -> list[Tensor]:
    """The flat weights of an e3nn ``FullyConnectedTensorProduct`` with one input channel, per output degree.

    e3nn iterates over l1, then l2, then l3; each path has one weight per output channel.
    """
    expected = sum(weight.numel() for weight in product.weight)
    if flat.numel() != expected:
        raise ConfigError(
            f"{OWNER}: a tensor product has {flat.numel()} weights; the configuration requires {expected}"
        )
    weights = [torch.empty_like(weight, dtype=flat.dtype) for weight in product.weight]
    lmax, start = product.lmax_in, 0
    for l1 in range(lmax + 1):
        for l2 in range(lmax + 1):
            for l3, weight in enumerate(weights):
                paths = natural_parity_paths(lmax, lmax, l3)
                if Path(l1, l2, l3) in paths:
                    width = weight.shape[-1]
                    weight[paths.index(Path(l1, l2, l3)), 0] = flat[start : start + width]
                    start += width
    return weights


def _their_name(name: str) -> str:
    """The authors' name of a parameter outside the tensor products."""
    match = re.match(r"backbone\.layers\.(\d+)\.(?:blocks\.(\d+)\.)?(.*)", name)
    if match is None:
        prefix, tables = "", _GLOBAL_NAMES
    elif match[2] is None:
        prefix, tables, name = f"edge_blocks.{match[1]}.", _LAYER_NAMES, match[3]
    else:
        prefix, tables, name = f"edge_blocks.{match[1]}.message_blocks.{match[2]}.", _BLOCK_NAMES, match[3]
    if name in tables:
        return prefix + tables[name]
    stem, leaf = name.rsplit(".", 1)
    return f"{prefix}{tables[stem]}.{leaf}"
