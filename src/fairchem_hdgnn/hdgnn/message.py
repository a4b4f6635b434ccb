"""The message m_ij (section 3.2): the plain equations.

Shapes: E edges, ``coefficients = (lmax + 1)**2``, ``rows`` those with ``|m| <= mmax``, C channels. x_j belongs to the
source of an edge, x_i to its target. Every message takes the same arguments and returns coefficients in the global
frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Union

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.arithmetic.products import product
from fairchem_hdgnn.hdgnn.config import NUM_TERMS, HDGNNConfig
from fairchem_hdgnn.hdgnn.options import Message, Mlp, NeuralInput, TensorProduct
from fairchem_hdgnn.nn.degree_linear import DegreeLinear
from fairchem_hdgnn.nn.edge_product import GatedEdgeProduct
from fairchem_hdgnn.so3.layout import coefficient_index, num_coefficients
from fairchem_hdgnn.so3.rotation import EdgeRotation


@dataclass(frozen=True)
class BlockSize:
    """Degrees and hidden width of one message block (one resolution)."""

    lmax: int
    mmax: int
    lmax_metp: int
    hidden_channels: int


class GatedMlp(nn.Module):
    """NN of eq. 10: ``W_2 (SiLU(W_1 u + b_1) * c) + b_2``, optionally a SiLU after it.

    Args:
        inputs: size of u, flattened rows x channels.
        hidden: hidden width.
        outputs: size of the result.
        output_activation: whether a SiLU follows.
    """

    def __init__(self, inputs: int, hidden: int, outputs: int, output_activation: bool) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden)
        self.second = nn.Linear(hidden, outputs)
        self.output_activation = output_activation

    def forward(
        self, u: Float[Tensor, "edges inputs"], c: Float[Tensor, "edges hidden"]
    ) -> Float[Tensor, "edges outputs"]:
        """Apply the network with invariant features c_ij."""
        result = self.second(silu(self.first(u)) * c)
        return silu(result) if self.output_activation else result


class InvariantFeatures(nn.Module):
    """c_ij: ``SiLU(W e_ij)`` of the edge features."""

    def __init__(self, edge_channels: int, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(edge_channels, width)

    def forward(self, edge_features: Float[Tensor, "edges channels"]) -> Float[Tensor, "edges width"]:
        """c_ij."""
        return silu(self.linear(edge_features))


class EquivariantTerm(nn.Module):
    """The strictly equivariant term of eq. 11, ``(x_i + x_j) (x) S(r)`` with a gate, in the edge frame.

    With METP (eq. 7) the factor is the mean over channels; with the fully connected product all of them.

    Args:
        lmax: largest degree of x.
        lmax_out: largest degree L' of the result.
        channels: channels of x and of the result.
        kind: which product.
    """

    def __init__(self, lmax: int, lmax_out: int, channels: int, kind: TensorProduct) -> None:
        super().__init__()
        self.lmax, self.lmax_out, self.kind = lmax, lmax_out, kind
        channels_in = 1 if kind is TensorProduct.METP else channels
        self.product = GatedEdgeProduct(lmax, lmax_out, channels_in, channels)

    def reduce(self, x: Float[Tensor, "n coefficients channels"]) -> Float[Tensor, "n coefficients channels_in"]:
        """The factor of the product: the mean over channels, or x itself."""
        return x.mean(dim=-1, keepdim=True) if self.kind is TensorProduct.METP else x

    def forward(
        self, x: Float[Tensor, "edges coefficients channels"], rotation: EdgeRotation
    ) -> Float[Tensor, "edges rows_out channels"]:
        """The product, still in the edge frame, full layout up to ``lmax_out``."""
        rows = rotation.rows(self.lmax, self.lmax_out)
        return self.product(product(rows, self.reduce(x)))


class FullDegreeTerm(nn.Module):
    """The authors' fifth term: one channel of ``mean_C(x_i + x_j) (x) S(r)`` at every degree, gated."""

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.lmax = lmax
        self.product = GatedEdgeProduct(lmax, lmax, 1, 1)

    def forward(
        self, u: Float[Tensor, "edges coefficients one"], rotation: EdgeRotation
    ) -> Float[Tensor, "edges coefficients one"]:
        """The term in the global frame, from the channel mean u."""
        rows = rotation.rows(self.lmax, self.lmax)
        return product(rows.mT, self.product(product(rows, u)))


class HybridMessage(nn.Module):
    """Eq. 11, the hybrid of learned and strictly equivariant terms.

    m_ij = a_1 D^-1 (NN_1(x_j'') + NN_1(x_j)) + a_2 D^-1 (NN_1(x_i'') + NN_1(x_i))
         + a_3 D^-1 (NN_2(x_i'' + x_j'') + NN_2(x_i + x_j)) + a_4 (x_i + x_j) (x)_METP S(r),  x'' = (D - I) x.

    Networks see the rows ``|m| <= mmax`` of x'' in the edge frame and of x in the global frame.
    """

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.size, self.neural_input = size, config.neural_input
        self.mlp, self.output_activation = config.mlp, config.output_activation
        self.kept: Tensor
        self.register_buffer("kept", coefficient_index(size.lmax, size.mmax), persistent=False)
        self.channels = config.sphere_channels
        width = len(self.kept) * self.channels

        def network() -> GatedMlp:
            return GatedMlp(width, size.hidden_channels, width, config.output_activation)

        inputs = 2 if config.neural_input is NeuralInput.SPLIT else 1
        if config.mlp is Mlp.SHARED:
            nn1, nn2 = network(), network()
            self.networks = nn.ModuleList([nn1, nn2])
            self._single, self._pair = [[nn1] * inputs] * 2, [nn2] * inputs
        else:
            networks = [network() for _ in range(3 * inputs)]
            self.networks = nn.ModuleList(networks)
            self._single = [networks[:inputs], networks[inputs : 2 * inputs]]
            self._pair = networks[2 * inputs :]
        self.single_features = InvariantFeatures(config.edge_channels, size.hidden_channels)
        self.pair_features = InvariantFeatures(config.edge_channels, size.hidden_channels)
        self.equivariant = EquivariantTerm(size.lmax, size.lmax_metp, self.channels, config.tensor_product)
        self.full_degree = FullDegreeTerm(size.lmax) if config.full_degree_product else None

    @property
    def num_terms(self) -> int:
        """Attention coefficients per edge and channel."""
        return NUM_TERMS + (self.full_degree is not None)

    @property
    def mmax(self) -> int:
        """Largest order of D that the message needs."""
        return self.size.lmax if self.full_degree is not None else max(self.size.mmax, self.size.lmax_metp)

    def neural(
        self, networks: list[GatedMlp], x: Float[Tensor, "edges coefficients channels"], c: Tensor, rows: Tensor
    ) -> Float[Tensor, "edges rows channels"]:
        """``NN(x'') + NN(x)`` (eq. 10) in the edge frame, or NN(x')."""
        rotated, plain = product(rows, x), x[:, self.kept]
        views = [rotated - plain, plain] if self.neural_input is NeuralInput.SPLIT else [rotated]
        outputs = [network(view.flatten(1), c) for network, view in zip(networks, views)]
        return sum(outputs[1:], outputs[0]).view_as(plain)

    def forward(
        self,
        x_source: Float[Tensor, "edges coefficients channels"],
        x_target: Float[Tensor, "edges coefficients channels"],
        edge_features: Float[Tensor, "edges edge_channels"],
        attention: Float[Tensor, "edges terms ..."],
        rotation: EdgeRotation,
    ) -> Float[Tensor, "edges coefficients channels"]:
        """Messages in the global frame."""
        rows = rotation.rows(self.size.lmax, self.size.mmax)
        c_single, c_pair = self.single_features(edge_features), self.pair_features(edge_features)
        x_pair = x_source + x_target
        a = attention.unsqueeze(2)
        neural = (
            a[:, 0] * self.neural(self._single[0], x_source, c_single, rows)
            + a[:, 1] * self.neural(self._single[1], x_target, c_single, rows)
            + a[:, 2] * self.neural(self._pair, x_pair, c_pair, rows)
        )
        message = product(rows.mT, neural)
        low = rotation.rows(self.size.lmax_metp, self.size.lmax_metp)
        equivariant = product(low.mT, self.equivariant(x_pair, rotation))
        message = add_low_degrees(message, a[:, 3] * equivariant)
        if self.full_degree is not None:
            message = message + a[:, 4] * self.full_degree(x_pair.mean(-1, keepdim=True), rotation)
        return message


class LinearMessage(nn.Module):
    """Eq. 11 with equivariant linear layers for the networks (Table 3, 'Linear'): strictly equivariant.

    ``D^-1 (Lin(x'') + Lin(x)) = Lin(x)``, so each term is ``V^l (c * U^l x^l)`` with the invariant features c_ij.
    """

    num_terms = NUM_TERMS

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.size, self.mmax = size, size.lmax_metp
        channels = config.sphere_channels
        self.first = nn.ModuleList([DegreeLinear(size.lmax, channels, channels) for _ in range(2)])
        self.second = nn.ModuleList([DegreeLinear(size.lmax, channels, channels) for _ in range(2)])
        self.features = nn.ModuleList([InvariantFeatures(config.edge_channels, channels) for _ in range(2)])
        self.equivariant = EquivariantTerm(size.lmax, size.lmax_metp, channels, config.tensor_product)

    def forward(
        self,
        x_source: Float[Tensor, "edges coefficients channels"],
        x_target: Float[Tensor, "edges coefficients channels"],
        edge_features: Float[Tensor, "edges edge_channels"],
        attention: Float[Tensor, "edges terms ..."],
        rotation: EdgeRotation,
    ) -> Float[Tensor, "edges coefficients channels"]:
        """Messages in the global frame."""
        a = attention.unsqueeze(2)
        x_pair = x_source + x_target
        message = torch.zeros_like(x_pair)
        for term, (index, x) in enumerate([(0, x_source), (0, x_target), (1, x_pair)]):
            c = self.features[index](edge_features).unsqueeze(1)
            message = message + a[:, term] * self.second[index](self.first[index](x) * c)
        low = rotation.rows(self.size.lmax_metp, self.size.lmax_metp)
        return add_low_degrees(message, a[:, 3] * product(low.mT, self.equivariant(x_pair, rotation)))


class FullyConnectedMessage(nn.Module):
    """``a (x_i + x_j) (x) S(r)`` with all channels and degrees (Table 3, 'Fully-TP'): strictly equivariant."""

    num_terms = 1

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.mmax, self.lmax = size.lmax, size.lmax
        channels = config.sphere_channels
        self.features = InvariantFeatures(config.edge_channels, channels)
        self.equivariant = EquivariantTerm(size.lmax, size.lmax, channels, TensorProduct.FULLY_CONNECTED)

    def forward(
        self,
        x_source: Float[Tensor, "edges coefficients channels"],
        x_target: Float[Tensor, "edges coefficients channels"],
        edge_features: Float[Tensor, "edges edge_channels"],
        attention: Float[Tensor, "edges terms ..."],
        rotation: EdgeRotation,
    ) -> Float[Tensor, "edges coefficients channels"]:
        """Messages in the global frame."""
        pair = (x_source + x_target) * self.features(edge_features).unsqueeze(1)
        in_frame = self.equivariant(pair, rotation)
        return product(rotation.rows(self.lmax, self.lmax).mT, in_frame) * attention


class UnrestrictedMessage(nn.Module):
    """``a NN([x_i; x_j; S(r)])`` without any frame (Table 3, 'Unrestricted')."""

    num_terms = 1

    def __init__(self, config: HDGNNConfig, size: BlockSize) -> None:
        super().__init__()
        self.mmax, self.lmax = 0, size.lmax
        coefficients = num_coefficients(size.lmax)
        width = coefficients * config.sphere_channels
        self.network = GatedMlp(2 * width + coefficients, size.hidden_channels, width, config.output_activation)
        self.features = InvariantFeatures(config.edge_channels, size.hidden_channels)

    def forward(
        self,
        x_source: Float[Tensor, "edges coefficients channels"],
        x_target: Float[Tensor, "edges coefficients channels"],
        edge_features: Float[Tensor, "edges edge_channels"],
        attention: Float[Tensor, "edges terms ..."],
        rotation: EdgeRotation,
    ) -> Float[Tensor, "edges coefficients channels"]:
        """Messages in the global frame."""
        inputs = torch.cat([x_target.flatten(1), x_source.flatten(1), rotation.harmonics(self.lmax)], dim=-1)
        return self.network(inputs, self.features(edge_features)).view_as(x_source) * attention


AnyMessage = Union[HybridMessage, LinearMessage, FullyConnectedMessage, UnrestrictedMessage]

MESSAGES: dict[Message, Callable[[HDGNNConfig, BlockSize], AnyMessage]] = {
    Message.HYBRID: HybridMessage,
    Message.LINEAR: LinearMessage,
    Message.FULLY_TP: FullyConnectedMessage,
    Message.UNRESTRICTED: UnrestrictedMessage,
}


def add_low_degrees(message: Tensor, low: Float[Tensor, "edges low channels"]) -> Tensor:
    """Degree-wise sum of a message and a term that has only the lowest degrees."""
    rows = low.shape[1]
    return torch.cat([message[:, :rows] + low, message[:, rows:]], dim=1)
