"""Integration with fairchem-core 2: models, data sets and checkpoints for its own runner."""
