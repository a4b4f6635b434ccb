"""Convert a batch of either fairchem to the plain tensors that the networks take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fairchem_hdgnn.data.neighbor_lists import NeighborList, Search, find_edges
from fairchem_hdgnn.data.periodicity import lattice_vectors, make_boxes
from fairchem_hdgnn.errors import ConfigError, DataError
from fairchem_hdgnn.host.structures import check_edges, check_structures
from fairchem_hdgnn.hyperparameters import Keys, integer, other, switch, text
from fairchem_hdgnn.models.arithmetic.precision import full_precision

CUTOFF_PRECISION = 1e-6
"""Relative; cutoffs that differ by less are equal."""


@dataclass(frozen=True)
class GraphSettings(Keys):
    """Keys of a model's YAML that concern the graph and the trainer, not the network."""

    use_pbc: bool = switch(True)
    """Whether structures are periodic: along the cell vectors that a record's ``pbc`` selects, or along all three if it
    has no ``pbc``. If false, no structure is periodic, whatever its ``pbc``."""

    use_pbc_single: bool = switch(False)
    """A key of fairchem's own models, accepted but without effect; memory is bounded with either value."""

    otf_graph: bool = switch(True)
    """Build edges in the forward pass; if false, use ``edge_index`` (and ``cell_offsets``, ``neighbors``) of the record
    if present: those within ``cutoff``, without images in directions that are not periodic."""

    max_neighbors: int = integer(40)
    """Number of nearest neighbours to keep for each atom; no effect on edges of the record (``otf_graph: false``).
    Cost: time and memory of messages grow in proportion to the number of edges."""

    enforce_max_neighbors_strictly: bool = switch(True)
    """Whether neighbours at the same distance as the last one kept are dropped."""

    neighbor_list: NeighborList = other(NeighborList.PAIRS)
    """Method that finds the edges."""

    output_name: str = text("energy")
    """Name of the system-level output; must match the trainer's target."""

    vector_name: str = text("forces")
    """Name of the per-atom vector output, if the network has one (``regress_forces``)."""


class PlainGraph(NamedTuple):
    """Arguments of ``network(...)`` in order."""

    atomic_numbers: Int[Tensor, "nodes"]
    edge_index: Int[Tensor, "2 edges"]
    edge_vec: Float[Tensor, "edges 3"]
    batch: Int[Tensor, "nodes"]
    num_systems: int


class PlainGraphMixin:
    """Graph building for models that have their ``GraphSettings`` keys as attributes, as fairchem expects."""

    cutoff: float
    use_pbc: bool
    otf_graph: bool
    max_neighbors: int
    enforce_max_neighbors_strictly: bool
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
        """Edges within the cutoff and the tensors that a network takes, in its dtype.

        :mod:`~fairchem_hdgnn.data.periodicity` describes how ``use_pbc`` and a record's ``pbc`` combine.

        Raises:
            DataError: a structure that cannot be used; names system and atom.
            ConfigError: positions require a gradient.
        """
        if data.pos.requires_grad and torch.is_grad_enabled():
            raise ConfigError(
                "positions require a gradient, but the energy's gradient is not a force: edge frames are detached, and "
                "there is no envelope at the cutoff; train with 'regress_forces: true' and use the predicted forces"
            )
        # Otherwise autocast would multiply cells and offsets in bfloat16, and a GPU in TF32, here and in fairchem.
        with full_precision(data.pos):
            boxes = make_boxes(data, self.cutoff, use_pbc=self.use_pbc)
            sizes = check_structures(data, boxes, self.max_num_elements)
            if not self.otf_graph and self._has_edges(data):
                edge_index, edge_vec = self._stored_edges(data, boxes.periodic)
                check_edges(data, edge_index, edge_vec)
            else:
                found = find_edges(boxes, sizes, data.batch, self._search())
                edge_index, edge_vec = found.edge_index, found.edge_vec
        edge_vec = edge_vec.to(self._dtype(data))
        return PlainGraph(data.atomic_numbers.long(), edge_index, edge_vec, data.batch, len(data.natoms))

    def _search(self) -> Search:
        return Search(self.cutoff, self.max_neighbors, self.enforce_max_neighbors_strictly, self.neighbor_list)

    def _dtype(self, data: Any) -> torch.dtype:
        """Dtype of the network, whatever the dtype of the records."""
        parameters = self.parameters() if isinstance(self, nn.Module) else iter(())
        return next(parameters, data.pos).dtype

    def _has_edges(self, data: Any) -> bool:
        names = ["edge_index", "cell_offsets"] if self.use_pbc else ["edge_index"]
        return all(getattr(data, name, None) is not None for name in names)

    def _stored_edges(
        self, data: Any, periodic: Bool[Tensor, "systems 3"]
    ) -> tuple[Int[Tensor, "2 edges"], Float[Tensor, "edges 3"]]:
        """The record's own edges that are no longer than the cutoff and cross periodic boundaries only."""
        stored_cutoff = getattr(data, "edge_cutoff", None)
        # Batches hold it in float32.
        if stored_cutoff is not None and float(stored_cutoff.min()) < self.cutoff * (1 - CUTOFF_PRECISION):
            raise DataError(
                f"the records have edges up to {float(stored_cutoff.min()):g} Å, but the model's cutoff is "
                f"{self.cutoff:g} Å: lower 'cutoff', set 'otf_graph: true', or re-create the records"
            )
        source, target = data.edge_index
        edge_vec = data.pos[source].double() - data.pos[target].double()
        if self.use_pbc:
            edge_vec = edge_vec + lattice_vectors(data.cell_offsets, data.cell.double(), data.batch[target])
        kept = edge_vec.norm(dim=-1) <= self.cutoff
        if getattr(data, "cell_offsets", None) is not None:
            kept &= ~((data.cell_offsets != 0) & ~periodic[data.batch[target]]).any(dim=-1)
        return data.edge_index[:, kept], edge_vec[kept]
