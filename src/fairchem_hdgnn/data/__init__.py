"""Data sets: OC20's LMDB layout, safe reading, the demonstration set, QM9."""
