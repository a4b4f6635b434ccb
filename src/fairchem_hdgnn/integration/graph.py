"""From a fairchem batch to the plain tensors that the networks take."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from fairchem.core.models.base import GraphModelMixin
from jaxtyping import Float, Int, Num
from torch import Tensor

from fairchem_hdgnn.data.neighbor_lists import NeighborList, periodic_edges
from fairchem_hdgnn.errors import DataError
from fairchem_hdgnn.hyperparameters import choice, integer, switch, text
from fairchem_hdgnn.integration.structures import check_edges, check_structures
from fairchem_hdgnn.nn.precision import full_precision


@dataclass(frozen=True)
class GraphSettings:
    """Keys of a model's YAML that belong to the graph and the trainer, not to the network.

    Attributes:
        use_pbc: whether structures are periodic.
        use_pbc_single: build periodic graphs one structure at a time (less memory, slower).
        otf_graph: build edges in the forward pass; otherwise ``edge_index`` (and ``cell_offsets``, ``neighbors``) of
            the record are used where present.
        max_neighbors: the nearest so many neighbours of each atom are kept.
        enforce_max_neighbors_strictly: whether neighbours as far as the last one kept are dropped.
        neighbor_list: ``fairchem``, or ``vesin`` for large structures on a CPU.
        output_name: name of the system-level output, to match the trainer's target.
        vector_name: name of the per-atom vector output, if the network has one (``regress_forces``).
    """

    use_pbc: bool = switch(True)
    use_pbc_single: bool = switch(False)
    otf_graph: bool = switch(True)
    max_neighbors: int = integer(40)
    enforce_max_neighbors_strictly: bool = switch(True)
    neighbor_list: NeighborList = choice(NeighborList, NeighborList.FAIRCHEM)
    output_name: str = text("energy")
    vector_name: str = text("forces")


class PlainGraph(NamedTuple):
    """Arguments of ``network(...)`` in order; shapes as there."""

    atomic_numbers: Int[Tensor, "nodes"]
    edge_index: Int[Tensor, "2 edges"]
    edge_vec: Float[Tensor, "edges 3"]
    batch: Int[Tensor, "nodes"]
    num_systems: int


class PlainGraphMixin(GraphModelMixin):
    """Graph building for models that hold their ``GraphSettings`` keys as attributes, as fairchem expects."""

    cutoff: float
    neighbor_list: NeighborList
    max_num_elements: int
    output_name: str
    vector_name: str

    def adopt(self, settings: GraphSettings, cutoff: float, max_num_elements: int, regress_forces: bool) -> None:
        """Set the attributes that fairchem's graph builder, trainer and calculator read."""
        for name, value in vars(settings).items():
            setattr(self, name, value)
        self.cutoff, self.max_num_elements, self.regress_forces = cutoff, max_num_elements, regress_forces
        self.direct_forces = True

    def plain_graph(self, data: Any) -> PlainGraph:
        """Edges within the cutoff and the tensors a network takes.

        Raises:
            DataError: a structure that cannot be used, naming system and atom.
        """
        atomic_numbers = data.atomic_numbers.long()
        check_structures(data, self.max_num_elements, periodic=self.use_pbc)
        # Autocast would multiply cells and offsets in bfloat16.
        with full_precision(data.pos):
            if self.use_pbc:
                edge_index, edge_vec = self._periodic_edges(data)
            else:
                edge_index = self._molecular_edges(data)
                edge_vec = data.pos[edge_index[0]] - data.pos[edge_index[1]]
        check_edges(data, edge_index, edge_vec)
        return PlainGraph(atomic_numbers, edge_index, edge_vec, data.batch, len(data.natoms))

    def _periodic_edges(self, data: Any) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
        """Edges across periodic boundaries; fairchem finds them in float32 only."""
        if self.otf_graph:
            data = _inside_cell(data)
            if self.neighbor_list is NeighborList.VESIN:
                strictly = self.enforce_max_neighbors_strictly
                edges = periodic_edges(data, self.cutoff, self.max_neighbors, strictly, self.neighbor_list)
                return edges.edge_index, _edge_vec(data, edges.edge_index, edges.cell_offsets)
        if data.pos.dtype is torch.float32:
            graph = self.generate_graph(data)
            return graph.edge_index, graph.edge_distance_vec
        rounded = copy.copy(data)
        rounded.pos, rounded.cell = data.pos.float(), data.cell.float()
        graph = self.generate_graph(rounded)
        cell = data.cell[data.batch[graph.edge_index[1]]].to(data.pos.dtype)
        images = (graph.offset_distances.to(cell).unsqueeze(1) @ torch.linalg.inv(cell)).round().squeeze(1)
        return graph.edge_index, _edge_vec(data, graph.edge_index, images)

    def _molecular_edges(self, data: Any) -> Int[Tensor, "2 edges"]:
        """Edges of non-periodic systems: the record's own, or all pairs within the cutoff, nearest first."""
        stored = getattr(data, "edge_index", None)
        if not self.otf_graph and stored is not None:
            return self._within_cutoff(data, stored)
        parts, offset = [], 0
        for count in data.natoms.tolist():
            distance = torch.cdist(data.pos[offset : offset + count], data.pos[offset : offset + count])
            distance.fill_diagonal_(torch.inf)
            nearest, source = distance.topk(min(self.max_neighbors, count), dim=0, largest=False)
            kept = nearest <= self.cutoff
            target = torch.arange(count, device=source.device).expand_as(source)
            parts.append(torch.stack([source[kept], target[kept]]) + offset)
            offset += count
        return torch.cat(parts, dim=1)

    def _within_cutoff(self, data: Any, edge_index: Int[Tensor, "2 edges"]) -> Int[Tensor, "2 kept"]:
        """The stored edges that are no longer than the cutoff."""
        stored_cutoff = getattr(data, "edge_cutoff", None)
        if stored_cutoff is not None and float(stored_cutoff.min()) < self.cutoff:
            raise DataError(
                f"the records hold edges up to {float(stored_cutoff.min()):g} Å, the model's cutoff is "
                f"{self.cutoff:g} Å: lower 'cutoff', set 'otf_graph: true', or prepare the records again"
            )
        distance = (data.pos[edge_index[0]] - data.pos[edge_index[1]]).norm(dim=-1)
        return edge_index[:, distance <= self.cutoff]


def _edge_vec(
    data: Any, edge_index: Int[Tensor, "2 edges"], images: Num[Tensor, "edges 3"]
) -> Float[Tensor, "edges 3"]:
    """Vectors from targets to sources, whose images are counted in cells."""
    source, target = edge_index
    cell = data.cell[data.batch[target]].to(data.pos.dtype)
    return data.pos[source] - data.pos[target] + (images.to(cell).unsqueeze(1) @ cell).squeeze(1)


def _inside_cell(data: Any) -> Any:
    """The same structures with every atom moved into its cell: fairchem misses edges of atoms far outside."""
    cell = data.cell[data.batch].to(data.pos.dtype)
    images = (data.pos.unsqueeze(1) @ torch.linalg.inv(cell)).floor()
    if not images.any():
        return data
    moved = copy.copy(data)
    moved.pos = data.pos - (images @ cell).squeeze(1)
    return moved
