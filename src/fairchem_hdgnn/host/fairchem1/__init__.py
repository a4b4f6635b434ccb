"""fairchem-core 1.10 as host: models, trainer, data sets, calculator, launching."""
