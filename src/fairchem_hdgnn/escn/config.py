"""eSCN's hyper-parameters. The YAML keys of the model are the fields of :class:`ESCNConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hyperparameters import choice, from_keys, integer, real, switch
from fairchem_hdgnn.nn.radial import DistanceFunction
from fairchem_hdgnn.so3.frames import FrameMode


class Implementation(str, Enum):
    """``fast``, or ``reference``: the plain equations, slower and with far more memory, for checking."""

    FAST = "fast"
    REFERENCE = "reference"


class Reduction(str, Enum):
    """How the energy of a system follows from its atoms: ``sum``, or ``mean`` (intensive targets)."""

    SUM = "sum"
    MEAN = "mean"


@dataclass(frozen=True)
class ESCNConfig:
    """Hyper-parameters of the network. Defaults are fairchem's, except for ``energy_scale``.

    Attributes:
        lmax: largest degree L of the node embedding.
        mmax: largest order M of the messages; 2 is the usual choice. Cost grows as M.
        num_layers: rounds of message passing.
        sphere_channels: channels C of each coefficient.
        hidden_channels: width of the SO(2) convolutions' hidden layer; most of the parameters and of the time.
        edge_channels: width of the edge features.
        cutoff: Å; the distance basis spans [0, cutoff].
        distance_function: distance basis.
        distance_resolution: Å between centres of the distance basis.
        basis_width: width of the basis functions in units of that distance.
        max_num_elements: atomic numbers must be below it.
        num_sphere_samples: sample points of the output heads.
        resolution: latitudes and longitudes of every grid on the sphere; as fairchem chooses them if absent. A finer
            grid is closer to exact equivariance.
        energy_scale: constant factor on the energy. fairchem's eSCN has 0.001, which suits its S2EF recipe; with
            IS2RE's learning rates the energy then hardly trains.
        energy_reduction: sum over atoms, or mean.
        regress_forces: adds a direct force head.
        frames: where the roll of edge frames comes from in training; evaluation is always reproducible.
        frame_seed: seed of random and seeded rolls.
        frame_average: number of seeded draws averaged at evaluation; cost grows in proportion.
        implementation: fast, or the plain equations.
    """

    lmax: int = integer(6, minimum=0, maximum=10)
    mmax: int = integer(2, minimum=0)
    num_layers: int = integer(8, maximum=1000)
    sphere_channels: int = integer(128, maximum=65536)
    hidden_channels: int = integer(256, maximum=65536)
    edge_channels: int = integer(128, maximum=65536)
    cutoff: float = real(8.0, above=0.0)
    distance_function: DistanceFunction = choice(DistanceFunction, DistanceFunction.GAUSSIAN)
    distance_resolution: float = real(0.02, above=0.0)
    basis_width: float = real(1.0, above=0.0)
    max_num_elements: int = integer(90, minimum=2)
    num_sphere_samples: int = integer(128)
    resolution: int | None = integer(None, minimum=2)
    energy_scale: float = real(1.0)
    energy_reduction: Reduction = choice(Reduction, Reduction.SUM)
    regress_forces: bool = switch(True)
    frames: FrameMode = choice(FrameMode, FrameMode.RANDOM)
    frame_seed: int = integer(0, minimum=0)
    frame_average: int = integer(1)
    implementation: Implementation = choice(Implementation, Implementation.FAST)

    def __post_init__(self) -> None:
        """Check that the keys fit together."""
        if self.mmax > self.lmax:
            raise ConfigError(f"'mmax' is {self.mmax}, but no order can exceed 'lmax' = {self.lmax}")
        if self.num_centres < 2:
            raise ConfigError(
                f"'cutoff' = {self.cutoff:g} Å leaves no distance basis at 'distance_resolution' = "
                f"{self.distance_resolution:g} Å"
            )
        if self.resolution is not None and (self.resolution % 2 or self.resolution < 2 * (self.lmax + 1)):
            raise ConfigError(
                f"'resolution' must be even and at least 2 (lmax + 1) = {2 * (self.lmax + 1)}, which resolves "
                f"degree 'lmax', not {self.resolution}"
            )

    @property
    def num_centres(self) -> int:
        """Size of the distance basis."""
        return int(self.cutoff / self.distance_resolution)

    def grid_resolution(self, mmax: int) -> tuple[int, int]:
        """(latitudes, longitudes) of the grid for functions with orders up to ``mmax``."""
        if self.resolution is not None:
            return self.resolution, self.resolution
        return 2 * (self.lmax + 1), 2 * mmax + (3 if mmax == self.lmax else 1)

    @classmethod
    def from_keys(cls, keys: Mapping[str, Any], other_keys: Iterable[str] = ()) -> ESCNConfig:
        """The configuration with these YAML keys; one-line ``ConfigError`` for an unknown key or a wrong value."""
        return from_keys(cls, keys, owner="eSCN", other_keys=other_keys)
