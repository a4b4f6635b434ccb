"""Fused Triton kernels for GPUs, registered as PyTorch operations; imported only by ``implementation: triton``."""
