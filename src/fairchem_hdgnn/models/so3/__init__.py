"""Rotations: coefficient layout, edge frames, Wigner-D matrices, couplings, grids."""
