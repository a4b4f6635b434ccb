"""Random inputs of the Triton kernels, and the comparison with the plain equations in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from fairchem_hdgnn.models.arithmetic.precision import Compute
from fairchem_hdgnn.models.edges import Edges
from fairchem_hdgnn.models.ops.edge_ops import EdgeOps
from fairchem_hdgnn.models.ops.passes import Pass
from fairchem_hdgnn.models.ops.triton_ops import TritonEdgeOps

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def random(*shape: int, grad: bool = True) -> Tensor:
    return torch.randn(*shape, device=DEVICE).requires_grad_(grad)


def edges(nodes: int, count: int, lmax: int, mmax: int) -> Edges:
    """Random edges; the last atom has none."""
    frames, _ = torch.linalg.qr(torch.randn(count, 3, 3, dtype=torch.float64))
    frames = frames * torch.linalg.det(frames)[:, None, None].sign()
    target = torch.randint(max(1, nodes - 1), (count,)).sort().values
    made = Edges.from_frames(torch.randint(nodes, (count,)), target, frames, nodes, lmax, mmax)
    return Edges(made.source.to(DEVICE), made.target.to(DEVICE), made.wigner.float().to(DEVICE), nodes)


def both(of: Edges, dtype: torch.dtype = torch.float32) -> tuple[TritonEdgeOps, EdgeOps]:
    """Kernels, and the plain equations in float64, on the same edges."""
    exact = Edges(of.source, of.target, of.wigner.double(), of.num_nodes)
    run, exact_run = (Pass(Compute(kind, tf32=False)) for kind in (dtype, torch.float64))
    return TritonEdgeOps(of.blocks(None)[0], run), EdgeOps(exact.blocks(None)[0], exact_run)


def same(got: Any, wanted: Any, inputs: tuple[Tensor, ...], exact: tuple[Tensor, ...], tolerance: float) -> None:
    """Values, and the gradients of a random sum of them."""
    got, wanted = ([values] if isinstance(values, Tensor) else list(values) for values in (got, wanted))
    upstream = [torch.randn_like(value) for value in wanted]
    of_got = torch.autograd.grad(got, inputs, [g.to(v.dtype) for g, v in zip(upstream, got)])
    of_wanted = torch.autograd.grad(wanted, exact, upstream)
    for a, b in zip([*got, *of_got], [*wanted, *of_wanted]):
        assert a.shape == b.shape
        scale = max(1.0, float(b.detach().abs().max())) if b.numel() else 1.0
        assert_close(a.double() / scale, b / scale, rtol=tolerance, atol=tolerance)


def doubles(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().double().requires_grad_() for tensor in tensors)
