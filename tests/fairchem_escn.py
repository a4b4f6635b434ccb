"""fairchem's own eSCN beside ours for tests: same structures, same weights, same edge frames."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from fairchem.core.models.base import GraphData, HydraModel
from fairchem.core.models.escn.escn import eSCN
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from fairchem_hdgnn.models.so3.frames import edge_frames, seeded_roll

TINY: dict[str, Any] = {
    "lmax_list": [2],
    "mmax_list": [1],
    "num_layers": 2,
    "sphere_channels": 4,
    "hidden_channels": 6,
    "edge_channels": 5,
    "num_sphere_samples": 16,
    "distance_resolution": 0.1,
    "cutoff": 4.0,
    "max_neighbors": 30,
    "otf_graph": True,
}
"""Constructor arguments of a small ``escn``."""


def hydra_config(keys: Mapping[str, Any], **energy_head: Any) -> dict[str, Any]:
    """The ``model`` section, less its name, of a hydra with escn's backbone and heads."""
    return {
        "backbone": {"model": "escn_backbone", **keys},
        "heads": {
            "energy": {"module": "escn_energy_head", **energy_head},
            "forces": {"module": "escn_force_head"},
        },
    }


def fairchem_model(config: Mapping[str, Any]) -> nn.Module:
    """fairchem's plain or hydra eSCN, made to take float64 and with the edge frames that ours has in evaluation."""
    hydra = "backbone" in config
    model = HydraModel(**config, pass_through_head_outputs=True) if hydra else eSCN(**config)
    backbone = model.backbone if hydra else model
    backbone._init_edge_rot_mat = seeded_frames
    build_graph = backbone.generate_graph
    backbone.generate_graph = lambda data: _graph_in_dtype(build_graph, _with_edges(data, backbone))
    if not backbone.use_pbc:
        backbone.otf_graph = False
    return model


def _with_edges(data: Any, backbone: nn.Module) -> Any:
    """Non-periodic systems with their edges: to find them itself, fairchem needs torch_cluster or pyg-lib."""
    if backbone.use_pbc:
        return data
    data = copy.copy(data)
    joined = (torch.cdist(data.pos, data.pos) <= backbone.cutoff) & (data.batch[:, None] == data.batch)
    data.edge_index = joined.fill_diagonal_(False).nonzero().T.flip(0)
    return data


def seeded_frames(data: Any, edge_index: Tensor, edge_vec: Tensor) -> Tensor:
    return edge_frames(edge_vec, seeded_roll(edge_vec, data.atomic_numbers[edge_index.T].long(), seed=0))


def _graph_in_dtype(build_graph: Callable[[Any], GraphData], data: Any) -> GraphData:
    """fairchem's graph builder works in float32; vectors and distances formed anew in the dtype of the positions."""
    with default_dtype(torch.float32):
        graph = build_graph(cast(data, torch.float32))
    source, target = graph.edge_index
    shift = graph.offset_distances.to(data.pos.dtype)
    if shift.any():
        images = torch.einsum("ei,eij->ej", shift, torch.linalg.inv(data.cell)[data.batch[target]]).round()
        shift = torch.einsum("ei,eij->ej", images, data.cell[data.batch[target]])
    graph.edge_distance_vec = data.pos[source] - data.pos[target] + shift
    graph.edge_distance = graph.edge_distance_vec.norm(dim=-1)
    return graph


def redraw(model: nn.Module, generator: torch.Generator) -> None:
    """Trained-like weights: as initialised, forces are differences that float32 resolves to three digits only."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            fan_in = parameter.shape[1] if parameter.dim() == 2 and "embedding" not in name else 1
            scale = fan_in**-0.5 if parameter.dim() == 2 else 0.3
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)


def systems(sizes: Sequence[int], seed: int = 0) -> Batch:
    """A fairchem batch of random cells, 5 Å wide, float64; no two atoms closer than about 1 Å."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in sizes:
        sites = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[torch.randperm(27, generator=generator)[:size]]
        pos = 5 / 3 * (sites + 0.25 * (torch.rand(size, 3, generator=generator) - 0.5))
        cell = 5 * torch.eye(3) + 0.3 * torch.rand(3, 3, generator=generator)
        parts.append(
            Data(
                atomic_numbers=torch.randint(1, 80, (size,), generator=generator),
                pos=pos.double(),
                cell=cell[None].double(),
                natoms=size,
            )
        )
    return Batch.from_data_list(parts)


def cast(batch: Batch, dtype: torch.dtype) -> Batch:
    """The same structures in another precision."""
    batch = copy.copy(batch)
    batch.pos, batch.cell = batch.pos.to(dtype), batch.cell.to(dtype)
    return batch


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """fairchem makes some of its tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
