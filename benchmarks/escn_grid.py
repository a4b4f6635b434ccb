"""Equivariance error of eSCN's finite grids: ``python benchmarks/escn_grid.py``.

A molecule-like cluster is turned at random, with other rolls of the edge frames, and the turned answer compared with
the answer for the turned cluster: the node embedding after all layers, the energy, and the forces. Random weights,
float64. The first table refines the grid of the point-wise networks (``resolution``), the second the sample points of
the output heads (``num_sphere_samples``). Relative errors: norm of the difference over norm.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from e3nn import o3

from fairchem_hdgnn.models.escn.network import ESCNNetwork
from fairchem_hdgnn.models.so3.wigner import wigner_d


def errors(keys: dict[str, Any], rotation: torch.Tensor) -> list[float]:
    """Relative errors of embedding, energy and forces under ``rotation``."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = ESCNNetwork(keys).double().eval()
    sites = torch.cartesian_prod(*[torch.arange(3.0)] * 3)[torch.randperm(27, generator=generator)[:16]]
    pos = (1.8 * sites + 0.2 * torch.randn(16, 3, generator=generator)).double()
    numbers = torch.randint(1, 20, (16,), generator=generator)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            fan_in = parameter.shape[-1] if parameter.dim() == 2 and "embedding" not in name else 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (fan_in**-0.5 if fan_in > 1 else 0.3))
        answers = [_answer(model, numbers, p) for p in (pos, pos @ rotation.T)]
    big = wigner_d(rotation[None], model.config.lmax, model.config.lmax)[0]
    expected = (big @ answers[0][0], answers[0][1], answers[0][2] @ rotation.T)
    return [float((a - b).norm() / b.norm()) for a, b in zip(answers[1], expected)]


def _answer(model: ESCNNetwork, numbers: torch.Tensor, pos: torch.Tensor) -> tuple[torch.Tensor, ...]:
    edge_index = (1 - torch.eye(len(pos))).nonzero().T
    edge_vec = pos[edge_index[0]] - pos[edge_index[1]]
    (frames,) = model.backbone.frames(edge_vec, numbers[edge_index.T], False)
    (x,) = model.backbone(numbers, edge_index, edge_vec, frames)
    output = model(numbers, edge_index, edge_vec, torch.zeros(len(pos), dtype=torch.long), 1, frames)
    return x, output["energy"], output["forces"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmax", type=int, default=6)
    parser.add_argument("--mmax", type=int, default=2)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    keys = {"lmax": args.lmax, "mmax": args.mmax, "num_layers": args.layers, "sphere_channels": args.channels}
    keys.update(hidden_channels=2 * args.channels, edge_channels=args.channels)
    torch.manual_seed(1)
    rotation = o3.rand_matrix().double()
    rotation = torch.linalg.qr(rotation).Q * torch.linalg.qr(rotation).R.diagonal().sign()
    print("resolution  embedding   energy      forces")
    for resolution in (None, 18, 24, 32, 48):
        found = errors({**keys, "resolution": resolution}, rotation)
        print(f"{resolution or 'default'!s:12}" + "".join(f"{error:<12.1e}" for error in found))
    print("\nsamples     embedding   energy      forces")
    for samples in (32, 128, 512, 2048):
        found = errors({**keys, "resolution": 48, "num_sphere_samples": samples}, rotation)
        print(f"{samples:<12}" + "".join(f"{error:<12.1e}" for error in found))


if __name__ == "__main__":
    main()
