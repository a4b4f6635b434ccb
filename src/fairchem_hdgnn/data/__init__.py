"""Data sets: OC20's LMDB layout, safe reading, QM9."""
