"""What is slab and what adsorbate: bonds, vacuum, layers, tags."""
