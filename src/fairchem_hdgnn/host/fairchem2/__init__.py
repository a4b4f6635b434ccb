"""fairchem-core 2 as host: models, data sets and checkpoints for its own runner."""
