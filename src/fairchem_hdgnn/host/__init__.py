"""What fairchem touches: models, trainer, runner, checkpoints."""
