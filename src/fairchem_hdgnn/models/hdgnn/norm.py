"""Layer norm for spherical-harmonic coefficients."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fairchem_hdgnn.models.ops.triton_ops import kernels_of
from fairchem_hdgnn.models.so3.constants import ConstantsModule
from fairchem_hdgnn.models.so3.layout import degree_index, num_coefficients

EPSILON = 1e-5
"""Added to the mean square."""


class DegreeLayerNorm(ConstantsModule):
    """Each degree divided by its root mean square over orders and channels, then scaled per channel.

    Degree 0 first loses its mean over channels if ``centred``, and gets a bias. A rotation changes
    neither statistic, so the layer is equivariant.

    Args:
        lmax: largest degree.
        channels: channels per coefficient.
        centred: whether degree 0 loses its mean over channels.
    """

    degree: Tensor
    averaging: Tensor

    def __init__(self, lmax: int, channels: int, centred: bool = True) -> None:
        super().__init__()
        self.centred = centred
        self.weight = nn.Parameter(torch.ones(lmax + 1, channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        degree = degree_index(lmax)
        averaging = torch.zeros(lmax + 1, num_coefficients(lmax), dtype=torch.float64)
        averaging[degree, torch.arange(num_coefficients(lmax))] = 1.0 / (2 * degree + 1).double()
        self.register_buffer("degree", degree, persistent=False)
        self.register_constant("averaging", averaging)

    def forward(
        self, x: Float[Tensor, "nodes coefficients channels"], *, fused: bool = False
    ) -> Float[Tensor, "nodes coefficients channels"]:
        """Normalise; statistics are formed in at least float32. ``fused``: by a GPU kernel, for float32."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            if fused:
                return kernels_of("degree_norm").degree_norm(x, self.weight, self.bias, self.centred, EPSILON)
            if self.centred:
                x = torch.cat([x[:, :1] - x[:, :1].mean(dim=-1, keepdim=True), x[:, 1:]], dim=1)
            # Not a product of matrices, which could run in TF32, here and backward.
            mean_square = (x.square().mean(dim=-1).unsqueeze(1) * self.averaging).sum(dim=-1)
            scale = (mean_square + EPSILON).rsqrt()
            x = x * (scale.unsqueeze(-1) * self.weight)[:, self.degree]
            return torch.cat([x[:, :1] + self.bias, x[:, 1:]], dim=1)
