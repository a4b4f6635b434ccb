"""eSCN's hyper-parameters. The YAML keys of the model are the fields of :class:`ESCNConfig`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Optional

from fairchem_hdgnn.errors import ConfigError
from fairchem_hdgnn.hyperparameters import Keys, from_keys, integer, other, real, switch
from fairchem_hdgnn.models.nn.heads import ReadoutInit
from fairchem_hdgnn.models.nn.initialisation import WeightInit
from fairchem_hdgnn.models.nn.radial import DistanceFunction
from fairchem_hdgnn.models.ops.execution import Activations, Implementation
from fairchem_hdgnn.models.so3.frames import FrameMode


class Reduction(str, Enum):
    """``sum``, or ``mean`` for intensive targets."""

    SUM = "sum"
    MEAN = "mean"


Resolution = Optional[int]


@dataclass(frozen=True)
class ESCNConfig(Keys):
    """Hyper-parameters of the network. Defaults are fairchem's, except for ``energy_scale``."""

    lmax: int = integer(6, minimum=0, maximum=10)
    """Largest degree L of the node embedding. Cost: time and memory of messages grow about as L."""

    mmax: int = integer(2, minimum=0)
    """Largest order M of the messages, at most ``lmax``; 2 is the usual choice. Cost: grows as M."""

    num_layers: int = integer(8, maximum=1000)
    """Rounds of message passing. Cost: time, memory and parameters grow in proportion."""

    sphere_channels: int = integer(128, maximum=65536)
    """Channels C of each coefficient. Cost: time and parameters grow in proportion."""

    hidden_channels: int = integer(256, maximum=65536)
    """Width of the SO(2) convolutions' hidden layer. Cost: most of the parameters and of the time; they grow in
    proportion."""

    edge_channels: int = integer(128, maximum=65536)
    """Width of the edge features. Cost: little."""

    cutoff: float = real(8.0, above=0.0)
    """Longest edge, Å; the distance basis spans [0, cutoff]. Cost: the number of edges grows as its cube, until
    ``max_neighbors`` limits it."""

    distance_function: DistanceFunction = other(DistanceFunction.GAUSSIAN)
    """Basis functions of the distance."""

    distance_resolution: float = real(0.02, above=0.0)
    """Determines the size of the distance basis: ``cutoff / distance_resolution`` centres, rounded down, are evenly
    spaced on [0, cutoff]; Å. Cost: none."""

    basis_width: float = real(1.0, above=0.0)
    """Width of the basis functions in units of their spacing."""

    max_num_elements: int = integer(90, minimum=2)
    """Upper limit of atomic numbers, exclusive. Cost: little."""

    num_sphere_samples: int = integer(128)
    """Sample points of the output heads. Cost: work for each atom, once; little."""

    resolution: Resolution = integer(None, minimum=2)
    """Latitudes and longitudes of every grid on the sphere, even, at least 2 (L + 1); fairchem's choice if left
    out. A finer grid is closer to exact equivariance. Cost: work on points grows as its square."""

    weight_init: WeightInit = other(WeightInit.UNIT_VARIANCE)
    """Initialisation of all weights but the last layer of each output head (``readout_init``): ``unit_variance``, which
    keeps the size of signals from layer to layer, or ``torch``, PyTorch's own, as in the published code. Does not
    affect loaded weights."""

    mean_neighbors: float = real(20.0, above=0.0)
    """Approximate average number of edges per atom; used only by ``weight_init: unit_variance``."""

    readout_init: ReadoutInit = other(ReadoutInit.ZERO)
    """Initialisation of each output head's last layer: ``zero``, so that training starts from the training mean, or
    ``random``. Does not affect loaded weights."""

    energy_scale: float = real(1.0)
    """Constant factor on the energy. fairchem's eSCN has 0.001, which suits its S2EF settings; with IS2RE's learning
    rates the energy then hardly trains."""

    energy_reduction: Reduction = other(Reduction.SUM)
    """Reduction of the atoms' energies to the energy of a system."""

    regress_forces: bool = switch(True)
    """Adds a head that predicts a vector for each atom, e.g. the force."""

    frames: FrameMode = other(FrameMode.RANDOM)
    """Source of the roll of edge frames in training; evaluation is always reproducible."""

    frame_seed: int = integer(0, minimum=0)
    """Seed of random and seeded rolls."""

    frame_average: int = integer(1)
    """Number of frame draws averaged in evaluation. Cost: evaluation time grows in proportion."""

    activations: Activations = other(Activations.RECOMPUTE)
    """Whether activations are stored or recomputed for the backward pass."""

    implementation: Implementation = other(Implementation.AUTO)
    """Implementation of the messages."""

    def __post_init__(self) -> None:
        """Check that the keys are consistent."""
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
