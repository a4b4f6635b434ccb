"""Integration with fairchem-core 1.10: models, trainer, data sets, calculator, launching."""
