"""The sub-commands of `fairchem-hdgnn`, one module each."""
