"""The demonstration's training and scoring: planned for the machine, interrupted in good order, gone on with."""
