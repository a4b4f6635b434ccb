"""Wigner-D matrices of edge frames, built from the frame's own entries without angles.

D is block-diagonal in the degree l, so a column (l, n) has one entry for each order m. These entries are all that is
built and held, as ``[edges, orders, coefficients]``; rows of D, mostly zeros, are written out where they are used.

Every rotation is ``R = Ry(c) Rx(-b) Ry(-a)``. About y, D is diagonal up to pairs (m, -m). About x, its
entries are trigonometric polynomials in b, so one product with a constant table gives all degrees at once.
"""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.products import product
from fairchem_hdgnn.models.so3.constants import cached_constants
from fairchem_hdgnn.models.so3.frames import sines_and_cosines
from fairchem_hdgnn.models.so3.layout import degree_index, degrees_and_orders, num_coefficients


@cached_constants
def axis_exchange(degree: int) -> Float[Tensor, "orders orders"]:
    """``D^l`` of the half turn about (x + y)/sqrt 2, which exchanges the x and y axes; float64, symmetric.

    Solved from ``Y(Q r) = D(Q) Y(r)`` on sample directions, accurate to 1e-13 for the degrees used here.
    """
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(8 * (2 * degree + 1), 3, generator=generator, dtype=torch.float64)
    swapped = torch.stack([points[:, 1], points[:, 0], -points[:, 2]], -1)
    before = o3.spherical_harmonics(degree, points, normalize=True, normalization="component")
    after = o3.spherical_harmonics(degree, swapped, normalize=True, normalization="component")
    matrix = torch.linalg.lstsq(before, after).solution.T
    return (matrix + matrix.T) / 2


def _turn_about_y(degree: int, cos: Tensor, sin: Tensor) -> Tensor:
    """``D^l`` of a turn about y from cos(k b), sin(k b), k = 0..l: [..., 2l+1, 2l+1]."""
    matrix = cos.new_zeros(*cos.shape[:-1], 2 * degree + 1, 2 * degree + 1)
    for m in range(-degree, degree + 1):
        sign = 1.0 if m >= 0 else -1.0
        matrix[..., degree + m, degree - m] = -sign * sin[..., abs(m)]
        matrix[..., degree + m, degree + m] = cos[..., abs(m)]
    return matrix


@cached_constants
def _x_turn_table(lmax: int, mmax: int) -> tuple[Tensor, Tensor]:
    """Constants of a turn by b about x: table and the flat positions of its entries in [orders, coefficients].

    ``[cos(k b), sin(k b)]_{k <= lmax} @ table`` are the entries of D, degree by degree, for rows with
    ``|m| <= mmax``. Float64, shape [2 (lmax + 1), entries].
    """
    full = num_coefficients(lmax)
    entries, positions = [], []
    for l, m in degrees_and_orders(lmax, mmax):
        exchange = axis_exchange(l)
        # D = J Z(b) J with Z from cos(k b) and sin(k b): collect the factor of each of them.
        entry = torch.zeros(2 * (lmax + 1), 2 * l + 1, dtype=torch.float64)
        for k in range(lmax + 1):
            unit = torch.zeros(lmax + 1, dtype=torch.float64)
            unit[k] = 1.0
            none = torch.zeros_like(unit)
            if k <= l:
                entry[k] = exchange[l + m] @ _turn_about_y(l, unit, none) @ exchange
                entry[lmax + 1 + k] = exchange[l + m] @ _turn_about_y(l, none, unit) @ exchange
        entries.append(entry)
        positions.append((m + mmax) * full + l * l + torch.arange(2 * l + 1))
    return torch.cat(entries, 1), torch.cat(positions)


@cached_constants
def _entry_orders(lmax: int, mmax: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each entry of the table: |m| and the entry with -m, for its row and for its column."""
    pairs = [(l, m, n) for l, m in degrees_and_orders(lmax, mmax) for n in range(-l, l + 1)]
    position = {pair: index for index, pair in enumerate(pairs)}
    row_order = torch.tensor([m for _, m, _ in pairs])
    column_order = torch.tensor([n for _, _, n in pairs])
    row_mirror = torch.tensor([position[l, -m, n] for l, m, n in pairs])
    column_mirror = torch.tensor([position[l, m, -n] for l, m, n in pairs])
    return row_order, row_mirror, column_order, column_mirror


@cached_constants
def _constants(lmax: int, mmax: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, ...]:
    table, flat = _x_turn_table(lmax, mmax)
    orders = _entry_orders(lmax, mmax)
    return (table.to(device, dtype), flat.to(device), *(order.to(device) for order in orders))


def _multiples(cos: Tensor, sin: Tensor, lmax: int) -> tuple[Tensor, Tensor]:
    """cos(k t) and sin(k t) for k = 0..lmax by the angle-addition recurrence: each [edges, lmax + 1]."""
    cosines, sines = [torch.ones_like(cos)], [torch.zeros_like(sin)]
    for _ in range(lmax):
        cosines.append(cosines[-1] * cos - sines[-1] * sin)
        sines.append(sines[-1] * cos + cosines[-2] * sin)
    return torch.stack(cosines, -1), torch.stack(sines, -1)


def wigner_d(
    frames: Float[Tensor, "edges 3 3"], lmax: int, mmax: int | None = None
) -> Float[Tensor, "edges rows coefficients"]:
    """Rows ``|m| <= mmax`` of the block-diagonal ``D(R) = D^0 + ... + D^lmax``.

    ``D(R) Y(r) = Y(R r)`` with e3nn's real spherical harmonics. Rows follow
    :func:`~fairchem_hdgnn.models.so3.layout.degrees_and_orders`; columns are the full layout.

    Args:
        frames: proper rotation matrices; products and sums are exact in their dtype.
        lmax: largest degree.
        mmax: largest order of the rows kept; all if absent.
    """
    mmax = lmax if mmax is None else min(mmax, lmax)
    return dense_rows(wigner_entries(frames, lmax, mmax), lmax, degrees_and_orders(lmax, mmax))


def wigner_entries(
    frames: Float[Tensor, "edges 3 3"], lmax: int, mmax: int
) -> Float[Tensor, "edges orders coefficients"]:
    """``D^l_mn`` at order m = -mmax..mmax and column (l, n); zero where l < ``|m|``.

    Args:
        frames: as in :func:`wigner_d`.
        lmax: largest degree.
        mmax: largest order, at most ``lmax``.
    """
    table, flat, row_order, row_mirror, column_order, column_mirror = _constants(
        lmax, mmax, frames.dtype, frames.device
    )
    # R = Ry(c) Rx(-b) Ry(-a); the middle row of R is the direction that goes to y.
    cos_b = frames[:, 1, 1]
    sin_b, sin_a, cos_a = sines_and_cosines(frames[:, 1])
    # First row of Rx(-b) Ry(-a) is (cos a, 0, -sin a), third (cos b sin a, -sin b, cos b cos a).
    cos_c = frames[:, 0, 0] * cos_a - frames[:, 0, 2] * sin_a
    sin_c = -(frames[:, 2, 0] * cos_a - frames[:, 2, 2] * sin_a)

    entries = product(torch.cat(_multiples(cos_b, -sin_b, lmax), -1), table)
    entries = _turn_columns(entries, *_multiples(cos_a, -sin_a, lmax), column_order, column_mirror)
    entries = _turn_rows(entries, *_multiples(cos_c, sin_c, lmax), row_order, row_mirror)
    orders, full = 2 * mmax + 1, num_coefficients(lmax)
    by_order = entries.new_zeros(frames.shape[0], orders * full)
    by_order[:, flat] = entries
    return by_order.view(-1, orders, full)


def dense_rows(
    entries: Float[Tensor, "edges orders coefficients"], lmax: int, rows: tuple[tuple[int, int], ...]
) -> Float[Tensor, "edges rows low_coefficients"]:
    """The rows (l, m) of D, columns up to degree ``lmax``, from its entries."""
    order, of_degree = _rows_of_entries(entries.shape[1] // 2, lmax, rows, entries.dtype, entries.device)
    return entries[..., : num_coefficients(lmax)].index_select(1, order).mul_(of_degree)


@cached_constants
def _rows_of_entries(
    mmax: int, lmax: int, rows: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For each row, which order it takes, and 1 at the columns of its degree."""
    order = torch.tensor([m + mmax for _, m in rows])
    degrees = torch.tensor([l for l, _ in rows])
    of_degree = (degrees.unsqueeze(1) == degree_index(lmax)).to(dtype)
    return order.to(device), of_degree.to(device)


def _turn_rows(entries: Tensor, cos: Tensor, sin: Tensor, order: Tensor, mirror: Tensor) -> Tensor:
    """``Z(t) D``: row m becomes cos(m t) D_m - sin(m t) D_-m."""
    magnitude, sign = order.abs(), order.sign()
    cos, sin = cos.index_select(1, magnitude), sin.index_select(1, magnitude)
    return cos * entries - (sin * sign) * entries.index_select(1, mirror)


def _turn_columns(entries: Tensor, cos: Tensor, sin: Tensor, order: Tensor, mirror: Tensor) -> Tensor:
    """``D Z(t)``: column n becomes cos(n t) D_n + sin(n t) D_-n."""
    magnitude, sign = order.abs(), order.sign()
    cos, sin = cos.index_select(1, magnitude), sin.index_select(1, magnitude)
    return cos * entries + (sin * sign) * entries.index_select(1, mirror)
