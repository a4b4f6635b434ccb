"""The authors' HDGNN written out plainly, on their weights: an independent check of network and converter.

Rotations, harmonics, couplings and grids are e3nn's; nothing of the package is used. Float64, no speed.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from e3nn import o3
from e3nn.math import normalize2mom
from small_networks import Clusters, float64_by_default
from torch import Tensor
from torch.nn.functional import silu

BASE: dict[str, Any] = {
    "num_interactions": 2,
    "lmax": 4,
    "mmax": 1,
    "num_taps": 1,
    "sphere_channels": 3,
    "sphere_channels_reduce": 3,
    "sphere_channels_l0": 7,
    "hidden_channels": 9,
    "num_sphere_samples": 24,
    "num_basis_functions": 5,
    "basis_width_scalar": 2.0,
    "cutoff": 6.0,
    "max_num_neighbors": 40,
    "num_resolutions": 1,
    "max_num_elements": 30,
    "distance_function": "gaussian",
}
"""Constructor arguments of a small network, under the authors' names."""

SILU_SCALE, SIGMOID_SCALE = normalize2mom(silu).cst, normalize2mom(torch.sigmoid).cst


@cache
def coupling(l1: int, l2: int, l3: int) -> Tensor:
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5


def degree(l: int) -> slice:
    return slice(l * l, (l + 1) ** 2)


def paths(lmax: int, lmax_out: int) -> list[tuple[int, int, int]]:
    """Products of degrees l1 and l2 into l3 of natural parity, in the order of e3nn's weights."""
    return [
        (l1, l2, l3)
        for l1 in range(lmax + 1)
        for l2 in range(lmax + 1)
        for l3 in range(lmax_out + 1)
        if abs(l1 - l2) <= l3 <= l1 + l2 and (l1 + l2 + l3) % 2 == 0
    ]


class Sizes:
    """What the constructor arguments make of the network."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.lmax, self.channels = config["lmax"], config["sphere_channels"]
        self.centres = int(config["cutoff"] / 0.02)
        hidden = config["hidden_channels"]
        self.blocks = [(self.lmax, hidden)]
        if config["num_resolutions"] == 2:
            self.blocks.append((max(4, self.lmax - 2), hidden // 4))

    def rows(self, lmax: int) -> list[int]:
        """Coefficients with |m| <= mmax."""
        mmax = self.config["mmax"]
        return [l * l + l + m for l in range(lmax + 1) for m in range(-min(l, mmax), min(l, mmax) + 1)]


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """A state dict as the authors' code has it, of random numbers."""
    sizes, shapes = Sizes(config), dict[str, tuple[int, ...]]()
    channels, edge, invariant = sizes.channels, config["num_basis_functions"], config["sphere_channels_l0"]
    elements = config["max_num_elements"]

    def linear(name: str, inputs: int, outputs: int, *more: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (outputs, inputs, *more), (outputs,)

    shapes["sphere_embedding.weight"] = (elements, invariant)
    linear("fc_l0", invariant, channels)
    for k in range(config["num_interactions"]):
        layer = f"edge_blocks.{k}"
        linear(f"{layer}.dist_block.fc1_dist", sizes.centres, edge)
        linear(f"{layer}.dist_block.fc1_edge_attr", edge, edge)
        shapes[f"{layer}.dist_block.source_embedding.weight"] = (elements, edge)
        shapes[f"{layer}.dist_block.target_embedding.weight"] = (elements, edge)
        shapes[f"{layer}.layer_norm.affine_weight"] = (sizes.lmax + 1, channels)
        shapes[f"{layer}.layer_norm.affine_bias"] = (channels,)
        for b, (lmax, hidden) in enumerate(sizes.blocks):
            block = f"{layer}.message_blocks.{b}"
            width, gate = len(sizes.rows(lmax)) * channels, edge + 2 * invariant
            linear(f"{block}.fc1_dist", edge, hidden)
            linear(f"{block}.fc2_dist", edge, hidden)
            linear(f"{block}.gate.fc1", gate, gate // 4)
            linear(f"{block}.gate.fc2", gate // 4, 5 * channels)
            for name, lmax_out, width_out in (("cg", 2, channels), ("cg_all", lmax, 1)):
                scalars = (lmax_out + 1) * width_out
                count = sum(width_out if l3 else scalars for _, _, l3 in paths(lmax, lmax_out))
                shapes[f"{block}.cg1.{name}.tp.weight"], shapes[f"{block}.cg1.{name}.bias.0"] = (count,), (scalars,)
            for n in (1, 2):
                linear(f"{block}.node_interaction{n}.node_fc1", width, hidden)
                linear(f"{block}.node_interaction{n}.node_fc2", hidden, width)
        linear(f"{layer}.fc1_sphere", 4 * channels, 2 * channels, 1, 1)
        linear(f"{layer}.fc2_sphere", 2 * channels, 2 * channels, 1, 1)
        linear(f"{layer}.fc3_sphere", 2 * channels, channels, 1, 1)
        linear(f"{layer}.SEattention.0", 2 * channels, 2 * channels // 16)
        linear(f"{layer}.SEattention.2", 2 * channels // 16, 2 * channels)
        if k < config["num_interactions"] - 1:
            linear(f"{layer}.fc_edge", edge, invariant)
    for n, outputs in ((1, channels), (2, channels), (3, 1)):
        linear(f"energy_fc{n}", channels, outputs)
    # The one generator whose numbers numpy promises to keep.
    generator = np.random.RandomState(seed)
    weights = {}
    for name, shape in shapes.items():
        scale = 0.3 if len(shape) == 1 else max(1, shape[1]) ** -0.5
        weights[name] = torch.from_numpy(scale * generator.standard_normal(shape))
        if name.endswith("affine_weight"):
            weights[name] += 1.0
    return weights


class PlainAuthorsHDGNN:
    def __init__(self, config: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.config, self.weights, self.sizes = config, weights, Sizes(config)
        with float64_by_default():
            lmax = config["lmax"]
            shape = (2 * (lmax + 1), 2 * (lmax + 1) + 1)
            self.to_grid = o3.ToS2Grid(lmax, shape, normalization="integral", dtype=torch.float64)
            self.from_grid = o3.FromS2Grid(shape, lmax, normalization="integral", dtype=torch.float64)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.weights[f"{name}.weight"].flatten(1).T + self.weights[f"{name}.bias"]

    def __call__(self, graph: Clusters, frames: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Energies, and x and f after each layer."""
        source, target = graph.edge_index
        vectors, lmax = graph.edge_vec, self.sizes.lmax
        distance = vectors.norm(dim=-1)
        with float64_by_default():
            wigner = o3.Irreps.spherical_harmonics(lmax).D_from_matrix(frames)
            harmonics = o3.spherical_harmonics(list(range(lmax + 1)), vectors, True, "component")
        closer = (target[:, None] == target) & (distance < distance[:, None])
        near = closer.sum(1) < 12
        everything = torch.ones_like(near)
        members = [everything] if len(self.sizes.blocks) == 1 else [near, ~near]

        centres = torch.linspace(0, self.config["cutoff"], self.sizes.centres, dtype=torch.float64)
        width = self.config["basis_width_scalar"] * (centres[1] - centres[0])
        basis = torch.exp(-0.5 * ((distance[:, None] - centres) / width) ** 2)
        f = self.weights["sphere_embedding.weight"][graph.numbers]
        x = torch.zeros(len(f), (lmax + 1) ** 2, self.sizes.channels, dtype=torch.float64)
        x[:, 0] = silu(self.linear("fc_l0", f))
        history = []
        for k in range(self.config["num_interactions"]):
            layer = f"edge_blocks.{k}"
            hidden = self.linear(f"{layer}.dist_block.fc1_dist", basis)
            hidden = hidden + self.weights[f"{layer}.dist_block.source_embedding.weight"][graph.numbers[source]]
            hidden = hidden + self.weights[f"{layer}.dist_block.target_embedding.weight"][graph.numbers[target]]
            edge = silu(self.linear(f"{layer}.dist_block.fc1_edge_attr", silu(hidden)))
            normalised = self.layer_norm(layer, x) / 3**0.5
            message = torch.zeros_like(x)
            for b, ((lmax_b, _), member) in enumerate(zip(self.sizes.blocks, members)):
                kept = slice(0, (lmax_b + 1) ** 2)
                s, t = source[member], target[member]
                out = self.message(
                    f"{layer}.message_blocks.{b}", lmax_b, normalised[s, kept], normalised[t, kept], edge[member],
                    f[s], f[t], wigner[member, kept, kept], harmonics[member, kept],
                )  # fmt: skip
                for e, i in enumerate(t.tolist()):
                    message[i, kept] += out[e]
            x = self.update(layer, x, message)
            if k < self.config["num_interactions"] - 1:
                summed = torch.zeros(len(f), edge.shape[1], dtype=torch.float64)
                summed.index_add_(0, target[members[0]], edge[members[0]])
                f = silu(2 / 3 * self.linear(f"{layer}.fc_edge", summed) + f)
            history.append((x, f))
        return self.energy(x, graph), history

    def layer_norm(self, layer: str, x: Tensor) -> Tensor:
        weight, bias = (self.weights[f"{layer}.layer_norm.affine_{name}"] for name in ("weight", "bias"))
        parts = []
        for l in range(self.sizes.lmax + 1):
            part = x[:, degree(l)]
            if l == 0:
                part = part - part.mean(-1, keepdim=True)
            part = part * (part.square().mean((1, 2), keepdim=True) + 1e-5) ** -0.5 * weight[l]
            parts.append(part + bias if l == 0 else part)
        return torch.cat(parts, 1)

    def tensor_product(self, name: str, lmax: int, lmax_out: int, u: Tensor, harmonics: Tensor) -> Tensor:
        """Gated product of the one-channel u with the harmonics, [edges, (lmax_out + 1)**2, width]."""
        bias = self.weights[f"{name}.bias.0"]
        width, flat, start = len(bias) // (lmax_out + 1), self.weights[f"{name}.tp.weight"], 0
        results = [torch.zeros(len(u), 2 * l + 1, width if l else len(bias)) for l in range(lmax_out + 1)]
        for l1, l2, l3 in paths(lmax, lmax_out):
            count = results[l3].shape[-1]
            product = torch.einsum("ea,eb,abc->ec", u[:, degree(l1)], harmonics[:, degree(l2)], coupling(l1, l2, l3))
            results[l3] = results[l3] + product[..., None] * flat[start : start + count]
            start += count
        scalars = results[0][:, 0] + bias
        gated = [SILU_SCALE * silu(scalars[:, None, :width])]
        for l in range(1, lmax_out + 1):
            gated.append(results[l] * SIGMOID_SCALE * torch.sigmoid(scalars[:, None, l * width : (l + 1) * width]))
        return torch.cat(gated, 1)

    def message(
        self, block: str, lmax: int, x_source: Tensor, x_target: Tensor, edge: Tensor, f_source: Tensor,
        f_target: Tensor, wigner: Tensor, harmonics: Tensor,
    ) -> Tensor:  # fmt: skip
        rows, channels = self.sizes.rows(lmax), self.sizes.channels
        c_pair = silu(self.linear(f"{block}.fc1_dist", edge))
        c_single = silu(self.linear(f"{block}.fc2_dist", edge))
        hidden = torch.relu(self.linear(f"{block}.gate.fc1", torch.cat([edge, f_source, f_target], -1)))
        a = torch.sigmoid(self.linear(f"{block}.gate.fc2", hidden)).view(-1, 5, 1, channels)

        def network(index: int, u: Tensor, c: Tensor) -> Tensor:
            name = f"{block}.node_interaction{index}"
            hidden = silu(self.linear(f"{name}.node_fc1", u.flatten(1))) * c
            return silu(self.linear(f"{name}.node_fc2", hidden)).view(len(u), len(rows), channels)

        def both(index: int, x: Tensor, c: Tensor) -> Tensor:
            rotated = (wigner @ x - x)[:, rows]
            return network(index, rotated, c) + network(index, x[:, rows], c)

        learned = torch.zeros_like(x_source)
        learned[:, rows] = (
            a[:, 0] * both(1, x_source, c_single)
            + a[:, 1] * both(1, x_target, c_single)
            + a[:, 2] * both(2, x_source + x_target, c_pair)
        )
        out = wigner.mT @ learned
        mean = (x_source + x_target).mean(-1)
        out[:, :9] += a[:, 3] * self.tensor_product(f"{block}.cg1.cg", lmax, 2, mean, harmonics)
        return out + a[:, 4] * self.tensor_product(f"{block}.cg1.cg_all", lmax, lmax, mean, harmonics)

    def update(self, layer: str, x: Tensor, message: Tensor) -> Tensor:
        functions = []
        for function in (x, message):
            flipped = function.clone()
            for l in range(1, self.sizes.lmax, 2):  # their loop never reaches degree lmax
                flipped[:, degree(l)] *= -1
            functions += [function, flipped]
        values = torch.cat([self.to_grid(each.transpose(1, 2)) for each in functions], 1).permute(0, 2, 3, 1)
        hidden = silu(self.linear(f"{layer}.fc1_sphere", values))
        hidden = silu(self.linear(f"{layer}.fc2_sphere", hidden))
        squeezed = torch.relu(self.linear(f"{layer}.SEattention.0", hidden.mean((1, 2))))
        hidden = hidden * torch.sigmoid(self.linear(f"{layer}.SEattention.2", squeezed))[:, None, None]
        result = self.linear(f"{layer}.fc3_sphere", hidden)
        return self.from_grid(result.permute(0, 3, 1, 2)).transpose(1, 2)

    def energy(self, x: Tensor, graph: Clusters) -> Tensor:
        count = self.config["num_sphere_samples"]
        index = torch.arange(count, dtype=torch.float64)
        azimuth, polar = 2 * torch.pi * index / ((1 + 5**0.5) / 2), torch.arccos(1 - 2 * (index + 0.5) / count)
        points = torch.stack([azimuth.cos() * polar.sin(), azimuth.sin() * polar.sin(), polar.cos()], -1)
        weight = 1 / torch.exp(-((points[:, None] - points).square().sum(-1)) / (0.5 * 0.3)).sum(1)
        points = points * (weight * count / weight.sum())[:, None]
        harmonics = o3.spherical_harmonics(list(range(self.sizes.lmax + 1)), points, False, "integral")
        hidden = silu(self.linear("energy_fc1", torch.einsum("pk,nkc->npc", harmonics, x)))
        hidden = silu(self.linear("energy_fc2", hidden))
        of_atom = self.linear("energy_fc3", hidden).mean((1, 2))
        return torch.zeros(graph.num_systems, dtype=torch.float64).index_add_(0, graph.batch, of_atom)
