"""SO(2) convolutions in the frame of an edge (Passaro & Zitnick, ICML 2023).

In a frame whose y axis points along the edge, the coefficients of order m and -m are the real and imaginary part of
a number that a turn about the edge multiplies by a phase. Linear maps that commute with such turns multiply these
numbers by complex weights, which may mix degrees and channels but not orders. Every Clebsch-Gordan product with the
edge's spherical harmonics is of this form.

Shapes: ``rows`` are the coefficients with ``|m| <= mmax`` in storage order
(:func:`~fairchem_hdgnn.models.so3.layout.degrees_and_orders`), E edges, C channels, H hidden channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.so3.layout import degrees_and_orders


def order_rows(lmax: int, mmax: int, order: int) -> list[int]:
    """Positions, in storage order, of the coefficients of one order: degrees ``|order|..lmax``."""
    pairs = degrees_and_orders(lmax, mmax)
    return [pairs.index((l, order)) for l in range(abs(order), lmax + 1)]


def num_terms(mmax: int) -> int:
    """Real weight blocks of an SO(2) convolution: one for m = 0, a real and an imaginary one for each m > 0."""
    return 1 + 2 * mmax


def order_of_term(term: int) -> int:
    """The order m of a term: terms are numbered 0 (m = 0), 2m - 1 (real part, order m), 2m (imaginary part)."""
    return (term + 1) // 2


def terms_of_order(order: int) -> tuple[int, ...]:
    """Numbers of the terms of order m."""
    return (0,) if order == 0 else (2 * order - 1, 2 * order)


class SO2Linear(nn.Module):
    """Every linear map that commutes with turns about the edge: one complex matrix per order.

    ``y_m + i y_-m = (w_m + i w_-m) (x_m + i x_-m)``; the matrices run over (degree, channel). With ``mmax = lmax`` and
    weights shared between edges it spans the same maps as a fully connected Clebsch-Gordan product with the
    edge's harmonics of degrees up to ``2 lmax``.

    Args:
        lmax: largest degree.
        mmax: largest order; the output has the same rows as the input.
        channels_in: channels of the input.
        channels_out: channels of the output.
    """

    def __init__(self, lmax: int, mmax: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.channels_out = channels_out
        self.rows = [(order_rows(lmax, mmax, m), order_rows(lmax, mmax, -m)) for m in range(mmax + 1)]
        self.weight = nn.ParameterList()
        for order in range(mmax + 1):
            degrees = lmax + 1 - order
            bound = (degrees * channels_in) ** -0.5
            shape = (1 if order == 0 else 2, degrees * channels_in, degrees * channels_out)
            self.weight.append(nn.Parameter(torch.empty(shape).uniform_(-bound, bound)))

    def forward(self, x: Float[Tensor, "edges rows channels_in"]) -> Float[Tensor, "edges rows channels_out"]:
        """Apply the map to coefficients in the edge frame."""
        y = x.new_empty(x.shape[0], x.shape[1], self.channels_out)
        for order, (weight, (plus, minus)) in enumerate(zip(self.weight, self.rows)):
            real = x[:, plus].flatten(1)
            shape = (x.shape[0], len(plus), self.channels_out)
            if order == 0:
                y[:, plus] = (real @ weight[0]).view(shape)
            else:
                imaginary = x[:, minus].flatten(1)
                y[:, plus] = (real @ weight[0] - imaginary @ weight[1]).view(shape)
                y[:, minus] = (imaginary @ weight[0] + real @ weight[1]).view(shape)
        return y


class SO2Convolution(nn.Module):
    """eSCN's convolution: an :class:`SO2Linear` whose weights depend on the edge, in factorised form.

    For order m and each input (source and target atom), with ``z = x_m + i x_-m`` and real matrices V, W:
    ``y_m + i y_-m = sum_inputs W_r (s_r * V_r z) + i W_i (s_i * V_i z)``, s = SiLU(linear(edge features)); for m = 0
    only the real term. The complex weights of the whole map are ``W_r diag(s_r) V_r + i W_i diag(s_i) V_i``.

    Args:
        lmax: largest degree.
        mmax: largest order.
        channels: channels of inputs and output.
        hidden_channels: H, the rank of each term.
        edge_channels: width of the edge features.
        num_inputs: how many inputs, each with its own weights, are summed.
    """

    def __init__(
        self, lmax: int, mmax: int, channels: int, hidden_channels: int, edge_channels: int, num_inputs: int = 1
    ) -> None:
        super().__init__()
        self.lmax, self.mmax = lmax, mmax
        self.channels, self.hidden_channels, self.num_inputs = channels, hidden_channels, num_inputs
        self.rows = [(order_rows(lmax, mmax, m), order_rows(lmax, mmax, -m)) for m in range(mmax + 1)]
        self.scale = nn.Linear(edge_channels, num_terms(mmax) * num_inputs * hidden_channels)
        """s for each (term, input, hidden channel)."""
        self.inner = nn.ParameterList()
        """V for each degree l: [input, C, (term, H)] of the terms with order <= l."""
        for degree in range(lmax + 1):
            width = num_terms(min(degree, mmax)) * hidden_channels
            self.inner.append(nn.Parameter(torch.empty(num_inputs, channels, width)))
        self.outer = nn.ParameterList()
        """W for each order m: [(term of m, input, H), (degree, C)]."""
        for order in range(mmax + 1):
            terms = 1 if order == 0 else 2
            shape = (terms * num_inputs * hidden_channels, (lmax + 1 - order) * channels)
            self.outer.append(
                nn.Parameter(torch.empty(shape).uniform_(-(hidden_channels**-0.5), hidden_channels**-0.5))
            )
        self._initialise_inner()

    @torch.no_grad()
    def _initialise_inner(self) -> None:
        for term in range(num_terms(self.mmax)):
            order = order_of_term(term)
            bound = ((self.lmax + 1 - order) * self.channels) ** -0.5
            for degree in range(order, self.lmax + 1):
                self.inner[degree][..., self.hidden_slice(term)].uniform_(-bound, bound)

    def hidden_slice(self, term: int) -> slice:
        """Columns of ``inner`` that belong to a term."""
        return slice(term * self.hidden_channels, (term + 1) * self.hidden_channels)

    def forward(
        self,
        inputs: Sequence[Float[Tensor, "edges rows channels"]],
        edge_features: Float[Tensor, "edges edge_channels"],
    ) -> Float[Tensor, "edges rows channels"]:
        """Convolve coefficients in the edge frame: the plain equations."""
        scales = silu(self.scale(edge_features))
        scales = scales.view(-1, num_terms(self.mmax), self.num_inputs, 1, self.hidden_channels)
        y = torch.empty_like(inputs[0])
        for order, (plus, minus) in enumerate(self.rows):
            hidden = []
            for term in terms_of_order(order):
                for index, x in enumerate(inputs):
                    products = torch.einsum("eslc,lch->esh", self._turned(x, term), self._inner_of(term, index))
                    hidden.append(scales[:, term, index] * products)
            # Under autocast products come in its dtype.
            result = (torch.cat(hidden, -1) @ self.outer[order]).unflatten(-1, (-1, self.channels)).to(y.dtype)
            y[:, plus] = result[:, 0]
            if order > 0:
                y[:, minus] = result[:, 1]
        return y

    def _turned(self, x: Tensor, term: int) -> Float[Tensor, "edges signs degrees channels"]:
        """z (real terms) or i z (imaginary terms) as its rows m and -m; for m = 0 only one row."""
        plus, minus = self.rows[order_of_term(term)]
        if term == 0:
            return x[:, None, plus]
        pair = [x[:, plus], x[:, minus]] if term % 2 else [-x[:, minus], x[:, plus]]
        return torch.stack(pair, 1)

    def _inner_of(self, term: int, index: int) -> Float[Tensor, "degrees channels hidden"]:
        """V of one term and input."""
        degrees = range(order_of_term(term), self.lmax + 1)
        return torch.stack([self.inner[degree][index, :, self.hidden_slice(term)] for degree in degrees])
