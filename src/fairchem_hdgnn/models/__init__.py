"""HDGNN and eSCN on plain tensors. Nothing here imports fairchem: torch, e3nn, numpy and jaxtyping are enough."""
