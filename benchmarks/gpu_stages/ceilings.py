"""Peak rates of the GPU: a large copy, and matrix products at a large size and at the networks' sizes."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from gpu_stages.bench import Bench, tf32_everywhere

LARGE = (8192, 8192, 8192)
NETWORK_SHAPES = ((22400, 2432, 512), (22400, 512, 2432), (512, 22400, 2432))
"""(m, k, n): first layer, second layer and weight gradient of NN on 22,400 edges, L = 6, C = 128, H = 512."""

TINY_SHAPES = ((64, 64, 64), (128, 32, 16))


def ceilings(bench: Bench) -> dict[str, Any]:
    """Bytes/s of a copy (read and written), operations/s of products; fills ``bench.ceilings``."""
    block = torch.randn(2**16 if bench.tiny else 2**28, device=bench.device)
    target = torch.empty_like(block)
    bench.ceilings["copy"] = 2 * block.nbytes / bench.milliseconds(lambda: target.copy_(block))
    del block, target
    shapes = TINY_SHAPES if bench.tiny else (LARGE, *NETWORK_SHAPES)
    products: dict[str, dict[str, float]] = {}
    for name, dtype, allowed in (
        ("float32", torch.float32, False),
        ("tf32", torch.float32, True),
        ("bfloat16", torch.bfloat16, False),
    ):
        products[name] = {}
        for m, k, n in shapes:
            # Random data: products of zeros run faster than any real ones.
            a, b = (torch.randn(size, device=bench.device).to(dtype) for size in ((m, k), (k, n)))
            with tf32_everywhere(allowed):
                rate = 2 * m * k * n / bench.milliseconds(partial(torch.matmul, a, b), seconds=0.5)
            products[name][f"{m} x {k} x {n}"] = rate / 1e9
            bench.ceilings[name] = max(bench.ceilings.get(name, 0.0), rate)
    return {"copy_tb_per_s": bench.ceilings["copy"] / 1e9, "products_tflop_per_s": products}
