"""Spherical-harmonic coefficients <-> values on a latitude-longitude grid of the sphere."""

from __future__ import annotations

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor

from fairchem_hdgnn.models.arithmetic.products import product
from fairchem_hdgnn.models.so3.constants import ConstantsModule, cached_constants


def grid_points(resolution: tuple[int, int]) -> Float[Tensor, "points 3"]:
    """e3nn's grid: latitudes ``pi (i + 1/2) / n`` from the y axis, each with evenly spaced longitudes; float64."""
    latitudes, longitudes = resolution
    polar = torch.pi * (torch.arange(latitudes, dtype=torch.float64) + 0.5) / latitudes
    azimuth = 2 * torch.pi * torch.arange(longitudes, dtype=torch.float64) / longitudes
    polar, azimuth = torch.meshgrid(polar, azimuth, indexing="ij")
    points = torch.stack([polar.sin() * azimuth.sin(), polar.cos(), polar.sin() * azimuth.cos()], -1)
    return points.flatten(0, 1)


def quadrature_weights(resolution: tuple[int, int]) -> Float[Tensor, "points"]:
    """Weights for which sums over :func:`grid_points` are integrals over the sphere; float64.

    Exact for functions of degree < latitudes and order < longitudes (Driscoll & Healy, 1994).
    """
    latitudes, longitudes = resolution
    polar = torch.pi * (torch.arange(latitudes, dtype=torch.float64) + 0.5) / latitudes
    odd = 2 * torch.arange(latitudes // 2, dtype=torch.float64) + 1
    ring = 4 / latitudes * polar.sin() * ((polar.unsqueeze(-1) * odd).sin() / odd).sum(-1)
    return (2 * torch.pi / longitudes * ring).repeat_interleave(longitudes)


@cached_constants
def grid_matrices(
    lmax: int, resolution: tuple[int, int]
) -> tuple[Float[Tensor, "points coefficients"], Float[Tensor, "coefficients points"]]:
    """To-grid and from-grid matrices, e3nn's 'integral' normalisation, float64.

    ``resolution`` is (latitudes, longitudes), the first even. From-grid is a quadrature, exact for band limit
    ``lmax`` when latitudes >= 2 (lmax + 1) and longitudes >= 2 lmax + 1, so from-grid after to-grid is the identity.
    """
    # e3nn's own ToS2Grid and FromS2Grid round their weights to the default dtype, whatever dtype is requested.
    points = grid_points(resolution)
    values = o3.spherical_harmonics(list(range(lmax + 1)), points, normalize=False, normalization="integral")
    return values, (values * quadrature_weights(resolution).unsqueeze(-1)).T.contiguous()


class S2Grid(ConstantsModule):
    """Transforms between coefficients and grid values.

    Args:
        lmax: largest degree.
        resolution: (latitudes, longitudes); ``(2 (lmax + 1), 2 (lmax + 1) + 1)`` if absent.
    """

    to_grid: Tensor
    from_grid: Tensor

    def __init__(self, lmax: int, resolution: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.resolution = resolution or (2 * (lmax + 1), 2 * (lmax + 1) + 1)
        forward, backward = grid_matrices(lmax, self.resolution)
        self.register_constant("to_grid", forward)
        self.register_constant("from_grid", backward)

    def values(self, coefficients: Float[Tensor, "n coefficients channels"]) -> Float[Tensor, "n points channels"]:
        """Values at the grid points: ``f(r) = sum_lm f_lm Y_lm(r)``."""
        return product(self.to_grid, coefficients)

    def coefficients(self, values: Float[Tensor, "n points channels"]) -> Float[Tensor, "n coefficients channels"]:
        """Coefficients of the function with these values: ``f_lm = integral f(r) Y_lm(r) dr``."""
        return product(self.from_grid, values)


def fibonacci_points(count: int) -> Float[Tensor, "points 3"]:
    """SCN's sample of the sphere: a Fibonacci lattice, each point's length scaled by its local sparsity.

    The scale is the inverse of a Gaussian density estimate of width 0.15 (mean 1), as in SCN (Zitnick et al.,
    2022), where it acts through ``|r|**l`` of harmonics that are not normalised. Formed in float32, as models have
    been trained with it: azimuths of hundreds of radians are rounded by 1e-5, which forces show. Returned as float64.
    """
    index = torch.arange(count, dtype=torch.float32)
    azimuth = 2 * torch.pi * index / ((1 + 5**0.5) / 2)
    polar = torch.arccos(1 - 2 * (index + 0.5) / count)
    points = torch.stack([azimuth.cos() * polar.sin(), azimuth.sin() * polar.sin(), polar.cos()], -1).double()
    density = torch.exp(-torch.cdist(points, points).square() / 0.15).sum(-1)
    sparsity = 1 / density
    return points * (sparsity / sparsity.mean()).unsqueeze(-1)
