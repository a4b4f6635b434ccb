"""The message m_ij (section 3.2), summed over the edges into each atom.

Shapes: E edges of a block, ``coefficients = (lmax + 1)**2``, ``rows`` those with ``|m| <= mmax``, C channels. x_j
belongs to the source of an edge, x_i to its target. Every message has two parts: ``node_tensors`` forms what does not
depend on an edge, once for each atom; calling it gives the sums into a block's atoms, in the global frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.arithmetic.products import linear
from fairchem_hdgnn.models.edges import Rows, rows_up_to
from fairchem_hdgnn.models.hdgnn.config import NUM_TERMS, HDGNNConfig
from fairchem_hdgnn.models.hdgnn.options import Mlp, NeuralInput, TensorProduct
from fairchem_hdgnn.models.hdgnn.tensor_product import EquivariantTerm, FullDegreeTerm
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps, OuterProduct
from fairchem_hdgnn.models.ops.gated_network import (
    DIFFERENCE,
    NOTHING,
    PLAIN,
    ROTATED,
    Evaluations,
    GatedMlp,
    GatedTerm,
    Places,
    Rotated,
)
from fairchem_hdgnn.models.so3.layout import coefficient_index

ATOMS_OF_TERM = (("source",), ("target",), ("source", "target"))
"""Whose x the networks of each learned term see."""

Nodes = Float[Tensor, "nodes coefficients channels"]
Attention = Callable[[EdgeOps, Tensor], Tensor]
"""a_ij from a block and its edge features, ``[edges, terms, channels]``."""


@dataclass(frozen=True)
class BlockSize:
    """Degrees and hidden width of one message block (one resolution), and what is known of its x.

    Attributes:
        lmax: largest degree of x and of the message.
        mmax: largest order that the networks see.
        lmax_metp: largest degree L' of the equivariant term.
        hidden_channels: width of the networks.
        only_scalars: whether x has only l = 0, as in the first layer.
    """

    lmax: int
    mmax: int
    lmax_metp: int
    hidden_channels: int
    only_scalars: bool = False


class InvariantFeatures(nn.Module):
    """c_ij: ``SiLU(W e_ij)`` of the edge features."""

    def __init__(self, edge_channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(edge_channels, width)

    def forward(self, edge_features: Float[Tensor, "edges channels"]) -> Float[Tensor, "edges width"]:
        """c_ij."""
        return silu(self.linear(edge_features))


class NetworkCall(NamedTuple):
    """One use of a network in eq. 11.

    Attributes:
        terms: whose coefficients a_1..a_3 weigh the result.
        network: index into the message's networks.
        evaluations: its inputs, made from x_j (term 0), x_i (1) or x_i + x_j (2).
    """

    terms: tuple[int, ...]
    network: int
    evaluations: Evaluations


def network_calls(config: HDGNNConfig, only_scalars: bool) -> list[NetworkCall]:
    """The learned terms of eq. 11.

    Where x has only l = 0, ``D x = x``, so that x'' = 0 and nothing needs rotating; NN_1(0) is then the same for both
    atoms.
    """
    seen = (DIFFERENCE, PLAIN) if config.neural_input is NeuralInput.SPLIT else (ROTATED,)
    if only_scalars:
        seen = (NOTHING, PLAIN) if config.neural_input is NeuralInput.SPLIT else (PLAIN,)
    if config.mlp is Mlp.SEPARATE:
        each = [(term, evaluation) for term in range(3) for evaluation in seen]
        return [NetworkCall((term,), index, (evaluation,)) for index, (term, evaluation) in enumerate(each)]
    if only_scalars and config.output_activation and NOTHING in seen:
        plain = [NetworkCall((term,), term // 2, (PLAIN,)) for term in range(3)]
        return [*plain, NetworkCall((0, 1), 0, (NOTHING,)), NetworkCall((2,), 1, (NOTHING,))]
    return [NetworkCall((term,), term // 2, seen) for term in range(3)]


class HybridMessage(nn.Module):
    """Eq. 11, the hybrid of learned and strictly equivariant terms.

    m_ij = a_1 D^-1 (NN_1(x_j'') + NN_1(x_j)) + a_2 D^-1 (NN_1(x_i'') + NN_1(x_i))
         + a_3 D^-1 (NN_2(x_i'' + x_j'') + NN_2(x_i + x_j)) + a_4 (x_i + x_j) (x)_METP S(r),  x'' = (D - I) x.

    Networks see the rows ``|m| <= mmax`` of x'' in the edge frame and of x in the global frame.
    """

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.size, self.channels = size, config.sphere_channels
        self.kept: Tensor
        self.register_buffer("kept", coefficient_index(size.lmax, size.mmax), persistent=False)
        self.calls = network_calls(config, size.only_scalars)
        width = len(self.kept) * self.channels
        count = 2 if config.mlp is Mlp.SHARED else len(self.calls)
        self.networks: Sequence[GatedMlp] = nn.ModuleList(
            [GatedMlp(width, size.hidden_channels, width, config.output_activation) for _ in range(count)]
        )  # type: ignore[assignment]
        self.single_features = InvariantFeatures(config.edge_channels, size.hidden_channels)
        self.pair_features = InvariantFeatures(config.edge_channels, size.hidden_channels)
        self.equivariant = EquivariantTerm(size.lmax, size.lmax_metp, self.channels, config.tensor_product)
        self.full_degree = FullDegreeTerm(size.lmax) if config.full_degree_product else None
        self.shares_mean = config.tensor_product is TensorProduct.METP
        all_rows = rows_up_to(size.lmax, size.lmax)
        self.product_rows: Tensor
        positions = torch.tensor([all_rows.index(row) for row in self.equivariant.rows])
        self.register_buffer("product_rows", positions, persistent=False)

        self.network_rows = rows_up_to(size.lmax, size.mmax)
        low_rows = rows_up_to(size.lmax_metp, size.lmax_metp)
        self.rows: Rows = (*self.network_rows, *(row for row in low_rows if row not in self.network_rows))
        self.low_positions: Tensor
        self.low_of_row: Tensor
        places = Places.among(low_rows, self.rows)
        self.register_buffer("low_positions", places.of_low, persistent=False)
        self.register_buffer("low_of_row", places.low_of_row, persistent=False)

    @property
    def num_terms(self) -> int:
        """Attention coefficients per edge and channel."""
        return NUM_TERMS + (self.full_degree is not None)

    @property
    def mmax(self) -> int:
        """Largest order of D that the message needs."""
        return self.size.lmax if self.full_degree is not None else max(self.size.mmax, self.size.lmax_metp)

    @property
    def width(self) -> int:
        """Numbers for each edge in one result of a network."""
        return len(self.network_rows) * self.channels

    def node_tensors(self, x_source: Nodes, x_target: Nodes, compute: Compute) -> dict[str, Tensor]:
        """x, the equivariant terms' factors and matrices, and ``W_1 x`` of each network."""
        atoms = {"source": x_source, "target": x_target}
        tensors = {f"x_{atom}": x for atom, x in atoms.items()}
        same = x_target is x_source
        tensors["u_source"] = self.equivariant.factor(x_source)
        tensors["u_target"] = tensors["u_source"] if same else self.equivariant.factor(x_target)
        tensors |= named("matrix", self.equivariant.matrices())
        if self.full_degree is not None:
            tensors |= named("full_matrix", self.full_degree.matrices())
            if not self.shares_mean:
                tensors |= {f"mean_{atom}": x.mean(dim=-1, keepdim=True) for atom, x in atoms.items()}
        seen = {"source": x_source.index_select(1, self.kept).flatten(1)}
        seen["target"] = seen["source"] if same else x_target.index_select(1, self.kept).flatten(1)
        for terms, network, evaluations in self.calls:
            if not any(plain for _, plain in evaluations):
                continue
            for atom in ATOMS_OF_TERM[terms[0]]:
                name, other = f"projected_{network}_{atom}", tensors.get(f"projected_{network}_source")
                if same and other is not None:
                    tensors[name] = other
                elif name not in tensors:
                    tensors[name] = linear(seen[atom], self.networks[network].first.weight, tf32=compute.tf32)
        return tensors

    def forward(
        self,
        ops: EdgeOps,
        features: Float[Tensor, "edges edge_channels"],
        attention: Attention,
        nodes: dict[str, Tensor],
    ) -> Float[Tensor, "block_nodes coefficients channels"]:
        """Sums into the block's atoms."""

        def invariant_parts(features: Tensor) -> tuple[Any, ...]:
            layers = (self.single_features.linear, self.pair_features.linear)
            return (attention(ops, features).unbind(1), *ops.gate_features(features, layers))

        a, c_single, c_pair = ops.recomputed(invariant_parts, features)
        low, full = self._equivariant_terms(ops, nodes, a[3])
        rotated = self._rotated(ops, nodes)
        terms = [
            GatedTerm(
                self.networks[index],
                evaluations,
                rotated[weights[0]],
                self._projected(nodes, index, weights[0], evaluations),
                c_pair if weights[0] == 2 else c_single,
                a[weights[0]] if len(weights) == 1 else torch.stack([a[weight] for weight in weights]).sum(dim=0),
            )
            for weights, index, evaluations in self.calls
        ]
        y = ops.add_terms(low, Places(self.low_positions, self.low_of_row), terms)
        return ops.rotate_scatter(y, self.size.lmax, self.rows, None if full is None else OuterProduct(full, a[4]))

    def _equivariant_terms(self, ops: EdgeOps, nodes: dict[str, Tensor], a: Tensor) -> tuple[Tensor, Tensor | None]:
        """The equivariant term times a, and u of the fifth term where there is one."""
        mean = full = None
        if self.full_degree is not None:
            factor = "u" if self.shares_mean else "mean"
            mean = self.full_degree.rotated(ops, nodes[f"{factor}_source"], nodes[f"{factor}_target"])
            full = self.full_degree(ops, mean, all_of("full_matrix", nodes))

        def term(a: Tensor) -> Tensor:
            if self.shares_mean and mean is not None:
                rotated = mean.index_select(1, self.product_rows)
            else:
                rotated = self.equivariant.rotated(ops, nodes["u_source"], nodes["u_target"])
            return self.equivariant(ops, rotated, all_of("matrix", nodes), a)

        # With all channels, what the product stores for the backward pass is large.
        return (term(a) if self.shares_mean else ops.recomputed(term, a)), full

    def _rotated(self, ops: EdgeOps, nodes: dict[str, Tensor]) -> Sequence[Rotated | None]:
        """D x_j, D x_i and their sum, the rows that networks see; nothing where no network does."""
        if not any(rotated for call in self.calls for rotated, _ in call.evaluations):
            return [None, None, None]
        return ops.gather_rotate_pair(nodes["x_source"], nodes["x_target"], self.size.lmax, self.network_rows)

    def _projected(
        self, nodes: dict[str, Tensor], network: int, term: int, evaluations: Evaluations
    ) -> tuple[Tensor | None, Tensor | None]:
        """``W_1`` of x_j and x_i, as far as the term has them."""
        if not any(factor for _, factor in evaluations):
            return None, None
        source, target = (
            nodes[f"projected_{network}_{atom}"] if atom in ATOMS_OF_TERM[term] else None
            for atom in ("source", "target")
        )
        return source, target


def named(name: str, tensors: list[Tensor]) -> dict[str, Tensor]:
    """The tensors under the names ``name_0``, ``name_1``, ..."""
    return {f"{name}_{index}": tensor for index, tensor in enumerate(tensors)}


def all_of(name: str, tensors: dict[str, Tensor]) -> list[Tensor]:
    """The inverse of :func:`named`."""
    return [tensors[key] for key in (f"{name}_{index}" for index in range(len(tensors))) if key in tensors]
