"""Precision and repeatability: float32 beside float64, gradients at awkward edges, the same numbers every time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from small_networks import SMALL, randomise
from torch import Tensor, nn

from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.network import HDGNNNetwork

SMALL_ESCN = {
    "lmax": 3, "mmax": 2, "num_layers": 2, "sphere_channels": 4, "hidden_channels": 6, "edge_channels": 5,
    "cutoff": 6.0, "distance_resolution": 0.5, "num_sphere_samples": 20, "max_num_elements": 30,
}  # fmt: skip
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "HDGNN": lambda: HDGNNNetwork({**SMALL, "frames": "seeded"}),
    "HDGNN, authors": lambda: HDGNNNetwork({**SMALL, "preset": "authors", "frames": "seeded"}),
    "eSCN": lambda: ESCNNetwork({**SMALL_ESCN, "frames": "seeded", "regress_forces": False}),
}
Graph = tuple[Tensor, Tensor, Tensor, Tensor, int]


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    model = NETWORKS[request.param]()
    randomise(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Energies then come from the structure: no constant part hides errors, and every branch is strong.
            parameter.mul_(0 if name.endswith("bias") else 2)
    return model.eval()


def awkward_vectors() -> Tensor:
    """Edges along the axes, at the poles of every convention of angles, and within rounding of them; Å."""
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double()
    nearly = [axes + scale * torch.roll(axes, shift, 1) for scale in (1e-4, 1e-6, 1e-8, 1e-12) for shift in (1, 2)]
    diagonal = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    return torch.cat([axes, *nearly, diagonal[diagonal.norm(dim=1) > 0]])


def structures(count: int, seed: int = 0) -> Graph:
    """Systems of three atoms in which every pair is joined; a third of the edges is awkward. Float64."""
    generator = torch.Generator().manual_seed(seed)
    awkward = awkward_vectors()
    chosen = awkward[torch.randint(len(awkward), (count,), generator=generator)]
    first = torch.nn.functional.normalize(chosen) * (1 + 3 * torch.rand(count, 1, generator=generator).double())
    second = first + torch.randn(count, 3, generator=generator).double() + torch.tensor([0.0, 0.0, 3.0])
    pos = torch.stack([torch.zeros_like(first), first, second], dim=1)
    # Rounded, so that both precisions get the very same structures.
    pos = pos.float().double().reshape(-1, 3)
    numbers = torch.randint(1, 30, (3 * count,), generator=generator)
    pairs = torch.tensor([[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]).T
    edge_index = (pairs.unsqueeze(1) + 3 * torch.arange(count)[None, :, None]).reshape(2, -1)
    batch = torch.arange(count).repeat_interleave(3)
    return numbers, edge_index, pos[edge_index[0]] - pos[edge_index[1]], batch, count


def test_float32_agrees_with_float64(network: nn.Module) -> None:
    """On a thousand structures, in units of the spread of their energies; edge frames are built in each precision."""
    numbers, edge_index, edge_vec, batch, count = structures(1000)
    with torch.no_grad():
        exact = network.double()(numbers, edge_index, edge_vec, batch, count)["energy"]
        single = network.float()(numbers, edge_index, edge_vec.float(), batch, count)["energy"]
    assert exact.std() > 0.05, "the structures make no difference: the test shows nothing"
    assert (single - exact).abs().max() < 1e-5 * exact.std()


@pytest.mark.filterwarnings("ignore:edge_vec requires a gradient:UserWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients_are_finite_at_every_edge(network: nn.Module, dtype: torch.dtype) -> None:
    vectors = awkward_vectors()
    vectors = torch.cat([vectors, 1e-3 * vectors, 5.999 * torch.nn.functional.normalize(vectors)])
    count = len(vectors)
    edge_index = torch.stack([torch.arange(count) * 2, torch.arange(count) * 2 + 1])
    edge_vec = torch.cat([vectors, -vectors]).to(dtype).requires_grad_()
    numbers, batch = torch.randint(1, 30, (2 * count,)), torch.arange(count).repeat_interleave(2)
    network.to(dtype).train()
    output = network(numbers, torch.cat([edge_index, edge_index.flip(0)], dim=1), edge_vec, batch, count)
    output["energy"].sum().backward()
    assert torch.isfinite(output["energy"]).all()
    assert edge_vec.grad is None or torch.isfinite(edge_vec.grad).all()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def training_step(network: nn.Module) -> list[Tensor]:
    """Energies and gradients of one seeded step."""
    torch.manual_seed(5)
    network.float().train().zero_grad()
    numbers, edge_index, edge_vec, batch, count = structures(20)
    energy = network(numbers, edge_index, edge_vec.float(), batch, count)["energy"]
    energy.square().sum().backward()
    return [energy.detach(), *(p.grad.clone() for p in network.parameters() if p.grad is not None)]


def test_a_step_repeats_bit_for_bit(network: nn.Module) -> None:
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = training_step(network), training_step(network)
    finally:
        torch.use_deterministic_algorithms(deterministic)
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_order_in_the_batch_does_not_matter(network: nn.Module) -> None:
    network.float()
    numbers, edge_index, edge_vec, batch, count = structures(40)
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(count, generator=generator)
    atoms = (3 * order[:, None] + torch.arange(3)).flatten()
    place = torch.empty_like(atoms)
    place[atoms] = torch.arange(len(atoms))
    edges = torch.randperm(edge_index.shape[1], generator=generator)
    with torch.no_grad():
        energy = network(numbers, edge_index, edge_vec.float(), batch, count)["energy"]
        shuffled = network(numbers[atoms], place[edge_index[:, edges]], edge_vec[edges].float(), batch, count)["energy"]
    torch.testing.assert_close(shuffled, energy[order], rtol=1e-6, atol=1e-6 * float(energy.std()))
