"""Small random graphs and networks for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.passes import Pass

SMALL: dict[str, Any] = {
    "lmax": 3,
    "lmax_metp": 2,
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 6,
    "hidden_channels_far": 5,
    "edge_channels": 5,
    "invariant_channels": 6,
    "near_neighbors": 3,
    "lmax_far": 2,
    "cutoff": 6.0,
    "distance_resolution": 0.5,
    "num_sphere_samples": 20,
    "max_num_elements": 30,
}
"""Keys of a network that is small in every direction but has all its parts."""


@dataclass(frozen=True)
class Clusters:
    """Molecules without periodicity: all edges shorter than a cutoff."""

    numbers: Tensor
    pos: Tensor
    edge_index: Tensor
    batch: Tensor
    num_systems: int

    @property
    def edge_vec(self) -> Tensor:
        return self.pos[self.edge_index[0]] - self.pos[self.edge_index[1]]

    def arguments(self) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
        """What a network takes, in its order."""
        return self.numbers, self.edge_index, self.edge_vec, self.batch, self.num_systems

    def rotated(self, rotation: Tensor) -> Clusters:
        return replace(self, pos=self.pos @ rotation.T)


def clusters(sizes: Sequence[int] = (6, 4), seed: int = 0, dtype: torch.dtype = torch.float64) -> Clusters:
    """Random clusters of the given sizes; no two atoms closer than about 1 Å, every pair within 6 Å joined."""
    generator = torch.Generator().manual_seed(seed)
    parts, batch = [], []
    for system, size in enumerate(sizes):
        sites = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[torch.randperm(27, generator=generator)[:size]]
        parts.append(1.6 * sites + 0.2 * torch.randn(size, 3, generator=generator))
        batch += [system] * size
    pos, batch = torch.cat(parts).to(dtype), torch.tensor(batch)
    near = torch.cdist(pos, pos) < 6.0
    joined = near & (batch[:, None] == batch[None]) & ~torch.eye(len(pos), dtype=torch.bool)
    numbers = torch.randint(1, 20, (len(pos),), generator=generator)
    return Clusters(numbers, pos, joined.nonzero().T.flip(0), batch, len(sizes))


def network(dtype: torch.dtype = torch.float64, seed: int = 0, **keys: Any) -> HDGNNNetwork:
    """A network in evaluation mode with :data:`SMALL` keys and random weights, biases and norms included."""
    torch.manual_seed(seed)
    model = HDGNNNetwork({**SMALL, **keys}).to(dtype).eval()
    randomise(model, seed)
    return model


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Move every parameter away from its initial value: zero biases and unit norms would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 0.2 * noise.to(parameter)


def separate_edges(frames: Tensor, lmax: int, mmax: int) -> EdgeOps:
    """The plain operations on edges that share no atom: of n edges, k goes from atom n + k to atom k."""
    number = torch.arange(len(frames))
    edges = Edges.from_frames(len(frames) + number, number, frames, 2 * len(frames), lmax, mmax)
    return EdgeOps(edges.blocks(None)[0], Pass(Compute(frames.dtype, tf32=False)))


@contextlib.contextmanager
def float64_by_default() -> Iterator[None]:
    """e3nn rounds constants to the default dtype: it is exact to float64 only where that is the default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def random_rotations(count: int, seed: int = 0) -> Tensor:
    """Uniform rotation matrices, float64, [count, 3, 3]."""
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    with float64_by_default():
        rotations = o3.rand_matrix(count)
    torch.random.set_rng_state(state)
    return rotations


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Norm of the difference in units of the norm of what is expected."""
    actual, expected = actual.detach(), expected.detach()
    return float((actual - expected).norm() / expected.norm())
