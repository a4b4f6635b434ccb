"""Output heads that sample the sphere (SCN; Zitnick et al., 2022)."""

from __future__ import annotations

from enum import Enum

from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import silu

from fairchem_hdgnn.models.arithmetic.precision import full_precision
from fairchem_hdgnn.models.arithmetic.products import linear, product
from fairchem_hdgnn.models.arithmetic.sums import sum_by_group
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.grid import fibonacci_points


class ReadoutInit(str, Enum):
    """Initialisation of the last layer of each output head.

    ``zero``: an untrained network predicts 0, which the trainer's normaliser turns into the training mean; all other
    weights get their first gradient after one step. ``random``: PyTorch's own initialisation.
    """

    ZERO = "zero"
    RANDOM = "random"


def initialise_readout(last: nn.Linear, start: ReadoutInit) -> None:
    """Set the last layer of a head as configured."""
    if start is ReadoutInit.ZERO:
        for parameter in last.parameters():
            nn.init.zeros_(parameter)


class SphereReadout(ConstantsModule):
    """A point-wise network on ``x(r)`` at sample points r of the sphere: one number per atom and point.

    ``W_3 SiLU(W_2 SiLU(W_1 x(r)))`` with biases. The first layer acts on coefficients, where it costs less: it
    commutes with the evaluation at r.

    Args:
        lmax: largest degree.
        channels: channels of x.
        num_samples: number of points.
        output_bias: whether the last layer has a bias; eSCN's has none.
        start: initialisation of the last layer.
    """

    points: Tensor
    points_mean: Tensor
    harmonics: Tensor

    def __init__(
        self,
        lmax: int,
        channels: int,
        num_samples: int,
        output_bias: bool,
        start: ReadoutInit,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, channels)
        self.third = nn.Linear(channels, 1, bias=output_bias)
        initialise_readout(self.third, start)
        self.lmax = lmax
        self.use_points(fibonacci_points(num_samples))

    def use_points(self, points: Float[Tensor, "points 3"]) -> None:
        """Sample at these points; their lengths weight the degrees."""
        harmonics = o3.spherical_harmonics(
            list(range(self.lmax + 1)), points.double(), normalize=False, normalization="integral"
        )
        self.register_constant("points", points.double())
        self.register_constant("points_mean", points.double().mean(0))
        self.register_constant("harmonics", harmonics)

    def forward(self, x: Float[Tensor, "nodes coefficients channels"]) -> Float[Tensor, "nodes points"]:
        """The number at each atom and point."""
        with full_precision(x):
            values = silu(product(self.harmonics, linear(x, self.first.weight)) + self.first.bias)
            values = silu(linear(values, self.second.weight, self.second.bias))
            return linear(values, self.third.weight, self.third.bias).squeeze(-1)


class EnergyHead(nn.Module):
    """Energy of each system: mean over sample points, sum over atoms, eV (or the trainer's normalised unit).

    Args:
        lmax: largest degree.
        channels: channels of x.
        num_samples: points of the sphere.
        scale: constant factor; fairchem's eSCN has 0.001.
        output_bias: whether the readout's last layer has a bias.
        start: initialisation of the readout's last layer.
    """

    def __init__(
        self,
        lmax: int,
        channels: int,
        num_samples: int,
        scale: float = 1.0,
        output_bias: bool = True,
        start: ReadoutInit = ReadoutInit.RANDOM,
    ) -> None:
        super().__init__()
        self.readout = SphereReadout(lmax, channels, num_samples, output_bias, start)
        self.scale = scale

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], batch: Tensor, num_systems: int
    ) -> Float[Tensor, "systems"]:
        """Sum of the atoms' energies per system."""
        return sum_by_group(self.readout(x).mean(-1), batch, num_systems) * self.scale


class ForceHead(nn.Module):
    """Force on each atom, eV/Å: ``mean_r g(r) r`` over sample points r.

    Args: as for :class:`SphereReadout`.
    """

    def __init__(
        self,
        lmax: int,
        channels: int,
        num_samples: int,
        output_bias: bool = True,
        start: ReadoutInit = ReadoutInit.RANDOM,
    ) -> None:
        super().__init__()
        self.readout = SphereReadout(lmax, channels, num_samples, output_bias, start)

    def forward(self, x: Float[Tensor, "nodes coefficients channels"]) -> Float[Tensor, "nodes 3"]:
        """Direct forces (not the gradient of the energy)."""
        values = self.readout(x)
        # Forces come from small differences between points; removing the mean first keeps their digits.
        mean = values.mean(-1, keepdim=True)
        points = self.readout.points.to(values.dtype)
        return product(values - mean, points) / values.shape[-1] + mean * self.readout.points_mean.to(values.dtype)
