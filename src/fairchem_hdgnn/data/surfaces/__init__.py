"""Distinguish slab and adsorbate: bonds, vacuum, layers, tags."""
