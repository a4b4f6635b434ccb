"""TF32 reaches the networks that are told to use it, and never geometry, on an emulated GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import fcc111
from emulated_tf32 import WAYS, EmulatedTF32, Product, settings, take_the_branches_of_a_gpu, tf32_by
from fairchem.core.datasets import data_list_collater
from fairchem.core.preprocessing import AtomsToGraphs
from small_networks import clusters, network, random_rotations, randomise, relative_error
from small_runs import TINY_HDGNN, losses, train, write_config
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

import fairchem_hdgnn
from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.host.noisy_nodes import in_cells, whole_cells
from fairchem_hdgnn.host.precision import Precision
from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear, product
from fairchem_hdgnn.models.arithmetic.tf32 import allow_tf32
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.hdgnn.edge_product import GatedEdgeProduct
from fairchem_hdgnn.models.hdgnn.norm import DegreeLayerNorm
from fairchem_hdgnn.models.nn.heads import EnergyHead, ForceHead
from fairchem_hdgnn.models.nn.radial import SiLUBasis
from fairchem_hdgnn.models.ops.execution import OPS, Execution, Implementation
from fairchem_hdgnn.models.so3.frames import edge_frames
from fairchem_hdgnn.models.so3.grid import S2Grid
from fairchem_hdgnn.models.so3.wigner import wigner_d

CPU = torch.device("cpu")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmulatedTF32]:
    take_the_branches_of_a_gpu(monkeypatch)
    with EmulatedTF32() as mode:
        yield mode


def test_the_emulation_rounds(gpu: EmulatedTF32) -> None:
    """Otherwise none of what follows could fail."""
    a = torch.randn(30, 30)
    out, total = torch.empty(30, 30), torch.zeros(30, 30)
    exact = [a @ a, nn.functional.linear(a, a, a[0]), torch.cdist(a[:, :3], a[:, :3])]
    assert not gpu.in_tf32
    with tf32_by("allow_tf32"):
        for got, expected in zip([a @ a, nn.functional.linear(a, a, a[0]), torch.cdist(a[:, :3], a[:, :3])], exact):
            assert 1e-5 < relative_error(got, expected) < 1e-2
        assert torch.equal(torch.mm(a, a, out=out), total.addmm_(a, a))
        assert len(gpu.in_tf32) == 5
    assert torch.equal(a @ a, exact[0])


# Geometry, with TF32 allowed by a user.


@pytest.mark.parametrize("way", WAYS)
def test_wigner_matrices(gpu: EmulatedTF32, way: str) -> None:
    frames = random_rotations(50).requires_grad_()
    exact = wigner_d(frames, 6)
    single = frames.detach().float().requires_grad_()
    with tf32_by(way):
        before = settings()
        got = wigner_d(single, 6)
        got.square().sum().backward()
        assert settings() == before
    assert (got.double() - exact).abs().max() < 1e-5
    assert (got @ got.mT - torch.eye(49)).abs().max() < 1e-5
    exact.square().sum().backward()
    torch.testing.assert_close(single.grad.double(), frames.grad, rtol=0, atol=1e-3)
    assert gpu.products
    assert not gpu.in_tf32


def batch_of(structures: list[Atoms]) -> Batch:
    records = []
    for seed, structure in enumerate(structures):
        structure.rattle(0.05, seed=seed)
        data = AtomsToGraphs(r_edges=False, r_pbc=False).convert(structure)
        data.tags, data.sid = torch.ones(len(structure), dtype=torch.long), seed
        records.append(data)
    return data_list_collater(records, otf_graph=True)


def periodic() -> Batch:
    """Atoms outside their cells, too, and a cell that is large and not a box."""
    outside = fcc111("Cu", (3, 3, 3), vacuum=6.0)
    outside.pbc = True
    outside.positions += 2.5 * outside.cell[0] - outside.cell[1]
    skewed = Atoms("Pt8", np.random.default_rng(0).uniform(0, 1, (8, 3)) @ np.diag([11.0, 9.0, 31.0]), pbc=True)
    skewed.cell = [[11.0, 0, 0], [4.0, 9.0, 0], [-3.0, 2.0, 31.0]]
    return batch_of([outside, skewed])


def molecular() -> Batch:
    """More than 25 atoms: with fewer, torch measures distances without matrices whatever it is told."""
    return batch_of([Atoms("C40", np.random.default_rng(1).uniform(0, 9, (40, 3)), cell=np.eye(3) * 30)])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (periodic, {"neighbor_list": "pairs"}),
        (periodic, {"neighbor_list": "vesin"}),
        (molecular, {"use_pbc": False}),
    ],
    ids=["pairs", "vesin", "molecules"],
)
def test_graphs(make: Callable[[], Batch], keys: dict[str, Any], way: str) -> None:
    if keys.get("neighbor_list") == "vesin":
        pytest.importorskip("vesin", reason="vesin needs Python 3.10")
    keys = {**TINY_HDGNN, "cutoff": 6.0, "max_neighbors": 50, **keys}
    del keys["name"]
    model = fairchem_hdgnn.HDGNN(**keys)
    exact = model.plain_graph(make())
    with EmulatedTF32() as gpu, tf32_by(way):
        before = settings()
        got = model.plain_graph(make())
        assert settings() == before
    assert torch.equal(got.edge_index, exact.edge_index)
    assert torch.equal(got.edge_vec, exact.edge_vec)
    assert not gpu.in_tf32


def test_noisy_nodes_move_atoms_by_whole_cells(gpu: EmulatedTF32) -> None:
    cell = (torch.diag(torch.tensor([11.0, 9.0, 31.0])) + torch.randn(3, 3))[None]
    record = Data(pos=60 * torch.randn(20, 3), cell=cell)
    exact = whole_cells(in_cells(record.pos, record).floor(), record)
    with tf32_by("high"):
        assert torch.equal(whole_cells(in_cells(record.pos, record).floor(), record), exact)
    assert not gpu.in_tf32


def _values_and_gradients(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    value = module(*leaves)
    value = torch.cat([part.flatten() for part in value]) if isinstance(value, tuple) else value
    wanted = [*(x for x in leaves if x.requires_grad), *module.parameters()]
    loss = (torch.linspace(-1, 1, value.numel()) * value.flatten().square()).sum()
    return [value, *torch.autograd.grad(loss, wanted)]


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.energy, self.forces = EnergyHead(3, 8, 30), ForceHead(3, 8, 30)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.energy(x, torch.tensor([0, 1, 1]), 2), self.forces(x).flatten()])


class GridThereAndBack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.grid = S2Grid(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.grid.coefficients(self.grid.values(x).square())


class Product2(nn.Module):
    """Both kinds of exact products, and their second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        y = linear(x, self.weight, self.bias)
        [gradient] = torch.autograd.grad(product(y.mT, y).square().sum(), x, create_graph=True)
        return gradient


PARTS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "norm": lambda: (DegreeLayerNorm(3, 8), torch.randn(3, 16, 8)),
    "METP": lambda: (GatedEdgeProduct(3, 2, 1, 8), torch.randn(9, 14, 1)),
    "fully connected product": lambda: (GatedEdgeProduct(3, 2, 8, 8), torch.randn(9, 14, 8)),
    "heads": lambda: (Heads(), torch.randn(3, 16, 8)),
    "grid": lambda: (GridThereAndBack(), torch.randn(3, 16, 8)),
    "distance basis": lambda: (SiLUBasis(12), torch.rand(20)),
    "second derivatives": lambda: (Product2(), torch.randn(3, 4, 8)),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", PARTS)
def test_parts_in_value_and_gradient(gpu: EmulatedTF32, name: str, way: str) -> None:
    module, *inputs = PARTS[name]()
    randomise(module)
    exact = _values_and_gradients(module, *inputs)
    with tf32_by(way):
        got = _values_and_gradients(module, *inputs)
    for one, other in zip(got, exact):
        assert torch.equal(one, other)
    assert not gpu.in_tf32


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_equivariant_messages_do_not_see_the_roll(gpu: EmulatedTF32, implementation: str, way: str) -> None:
    """METP and the fifth term alone, whole rotations included, in value and gradient."""
    keys = {"preset": "authors", "num_resolutions": 1, "attention": [0.0, 0.0, 0.0, 1.0]}
    block = network(torch.float32, implementation=implementation, **keys).backbone.layers[1].blocks[0]
    graph = clusters((9,), dtype=torch.float32)
    order = torch.argsort(graph.edge_index[1], stable=True)
    source, target = graph.edge_index[:, order]
    x, f, features = torch.randn(9, 16, 4), torch.randn(9, 6), torch.randn(len(source), 5)
    results = []
    for seed in range(2):
        roll = torch.randn(len(source), generator=torch.Generator().manual_seed(seed))
        frames = edge_frames(graph.edge_vec[order], roll)
        leaf = x.clone().requires_grad_()
        with tf32_by(way):
            edges = Edges.from_frames(source, target, frames, 9, 3, 3)
            execution = Execution(OPS[Implementation(implementation)], Compute.chosen(x), keep=True)
            message = block(leaf, f, features, edges, execution)
            [gradient] = torch.autograd.grad(message.square().sum(), leaf)
        results.append((message, gradient))
    for one, other in zip(*results):
        assert relative_error(one, other) < 2e-6
    if implementation == "fast":
        assert gpu.in_tf32, "the networks, whose coefficients are zero"


# Networks. Sizes are primes, so that the shape of a product tells what it is.

CHANNELS, HIDDEN, EDGE, POINTS = 7, 23, 5, 8 * 9


def hdgnn(**keys: Any) -> nn.Module:
    sizes = {"sphere_channels": CHANNELS, "hidden_channels": HIDDEN, "hidden_channels_far": HIDDEN}
    return network(torch.float32, edge_channels=EDGE, **sizes, **keys)


def escn() -> nn.Module:
    keys = {"lmax": 3, "mmax": 2, "num_layers": 2, "cutoff": 6.0, "distance_resolution": 0.5, "resolution": 8}
    sizes = {"sphere_channels": CHANNELS, "hidden_channels": HIDDEN, "edge_channels": EDGE, "num_sphere_samples": 20}
    model = ESCNNetwork({**keys, **sizes})
    randomise(model)
    return model.eval()


def belongs_to_hdgnn_networks(product: Product) -> bool:
    """Layers of NN_1 and NN_2, but not what makes c_ij; the second layer of the update, 2C to 2C."""
    sizes = [size for factor in product.sizes for size in factor]
    if any(size % HIDDEN == 0 for size in sizes):
        return EDGE not in sizes
    return sizes.count(2 * CHANNELS) in (2, 3) and any(size % POINTS == 0 for size in sizes) and product.name != "bmm"


def belongs_to_escn_networks(product: Product) -> bool:
    """V, W and the scales; the second layer of the update, C to C. Rotations are batched products."""
    if product.name == "bmm":
        return False
    sizes = [size for factor in product.sizes for size in factor]
    update = sizes.count(CHANNELS) in (2, 3) and any(size % 64 == 0 for size in sizes)
    return any(size % HIDDEN == 0 for size in sizes) or update


MODELS = {
    "hdgnn": (hdgnn, {}, belongs_to_hdgnn_networks),
    "hdgnn, as the authors": (hdgnn, {"preset": "authors"}, belongs_to_hdgnn_networks),
    "hdgnn, recomputed": (hdgnn, {"activations": "recompute"}, belongs_to_hdgnn_networks),
    "escn": (escn, {}, belongs_to_escn_networks),
}


def _arguments() -> tuple[Any, ...]:
    graph = clusters((6, 5), dtype=torch.float32)
    roll = torch.linspace(0, 6, len(graph.edge_vec))
    return (*graph.arguments(), edge_frames(graph.edge_vec, roll))


def _loss(model: nn.Module) -> Tensor:
    return torch.stack([value.square().sum() for value in model(*_arguments()).values()]).sum()


@pytest.mark.parametrize("name", MODELS)
def test_networks_alone_run_in_tf32(gpu: EmulatedTF32, name: str) -> None:
    """All of their products, forward and backward, and no others."""
    make, keys, belongs = MODELS[name]
    model = make(**keys)
    before = settings()
    exact = _loss(model)
    assert not gpu.in_tf32
    gpu.products.clear()
    with Precision.TF32.autocast(CPU):
        loss = _loss(model)
    assert settings() == before
    forward = len(gpu.products)
    loss.backward()
    assert settings() == before
    for run in gpu.products:
        assert run.tf32 == belongs(run), run
    passes = gpu.products[:forward], gpu.products[forward:]
    assert all(any(run.tf32 for run in each) and not all(run.tf32 for run in each) for each in passes)
    assert 1e-7 < relative_error(loss, exact) < 1e-2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_networks_follow_the_user(gpu: EmulatedTF32, name: str, way: str) -> None:
    """Where TF32 is allowed for everything, so do they; batched products, which rotate, never do."""
    make, keys, belongs = MODELS[name]
    model = make(**keys)
    with tf32_by(way):
        before = settings()
        loss = _loss(model)
        forward = len(gpu.products)
        loss.backward()
        assert settings() == before
    assert all(run.tf32 for run in gpu.products if belongs(run))
    assert not [run for run in gpu.in_tf32 if run.name.startswith("b")]
    if name.startswith("hdgnn"):
        # Backward, the small layers that autograd records follow, too; eSCN's do in both passes.
        assert all(belongs(run) for run in gpu.products[:forward] if run.tf32)


def test_backward_passes_keep_what_forward_passes_chose(gpu: EmulatedTF32) -> None:
    """Also in a thread of its own, which is where autograd goes on a GPU, or under other settings."""
    model = hdgnn()
    loss = _loss(model)
    with tf32_by("allow_tf32"):
        loss.backward()
    assert not [run for run in gpu.in_tf32 if belongs_to_hdgnn_networks(run)]


@pytest.mark.parametrize("way", ["none", *WAYS])
@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("name", ["hdgnn", "escn"])
def test_settings_come_back_after_an_error(monkeypatch: pytest.MonkeyPatch, name: str, where: str, way: str) -> None:
    make, keys, _ = MODELS[name]
    model = make(**keys)
    take_the_branches_of_a_gpu(monkeypatch)

    def fails(*_: object) -> Tensor:
        assert Compute.chosen(torch.zeros(1)).tf32 == (where == "forward"), "inside a network's product"
        raise ZeroDivisionError

    def run() -> None:
        with Precision.TF32.autocast(CPU):
            loss = _loss(model)
        if where == "backward":
            monkeypatch.setattr(Compute, "add_product", fails_inside)
            loss.backward()

    def fails_inside(self: Compute, *_: object) -> None:
        with self.products():
            assert _is_consistent()
            raise ZeroDivisionError

    if where == "forward":
        monkeypatch.setattr("fairchem_hdgnn.models.ops.packed_matrix.linear", fails)
    if way == "none":
        before = settings()
        with pytest.raises(ZeroDivisionError):
            run()
        assert settings() == before
        return
    with tf32_by(way):
        before = settings()
        with pytest.raises(ZeroDivisionError):
            run()
        assert settings() == before


def _is_consistent() -> bool:
    """Products run in TF32 now, and both interfaces say so, unless the user himself has set them apart."""
    return settings()[0] in ("True", "refused")


@pytest.mark.parametrize("way", WAYS)
def test_scopes_nest(way: str) -> None:
    a = torch.randn(8, 8)
    with EmulatedTF32() as gpu, tf32_by(way):
        before = settings()
        for wanted in ([False], [True, False], [False, True, False, True]):
            _nested(wanted, lambda: a @ a)
            assert gpu.products[-1].tf32 == wanted[-1]
            assert settings() == before


def _nested(wanted: list[bool], work: Callable[[], object]) -> None:
    if not wanted:
        work()
        return
    with allow_tf32(wanted[0]):
        inner = settings()
        _nested(wanted[1:], work)
        assert settings() == inner


# The option.


def test_training_on_a_cpu_is_unchanged(tmp_path: Path) -> None:
    before = settings()
    config = write_config(tmp_path, max_epochs=1)
    for precision in ("float32", "tf32"):
        train(config, precision, f"--optim.precision={precision}")
    assert losses(tmp_path, "tf32") == losses(tmp_path, "float32")
    assert losses(tmp_path, "tf32")
    assert settings() == before


def test_not_beside_amp() -> None:
    assert Precision.from_config({"precision": "tf32"}, amp=False) is Precision.TF32
    with pytest.raises(ConfigError, match=r"optim\.precision: tf32 and --amp \(float16\) exclude each other"):
        Precision.from_config({"precision": "tf32"}, amp=True)
