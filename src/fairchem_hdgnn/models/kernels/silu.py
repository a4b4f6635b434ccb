"""SiLU inside kernels."""

import triton
import triton.language as tl


@triton.jit
def silu(x):
    """SiLU of float32 numbers, and its slope."""
    s = tl.sigmoid(x)
    return x * s, s * (1.0 + x * (1.0 - s))
