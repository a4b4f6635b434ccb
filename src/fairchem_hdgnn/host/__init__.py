"""The interface to fairchem: models, trainer, runner, checkpoints."""
