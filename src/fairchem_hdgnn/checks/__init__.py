"""Find what would fail or go wrong before the first step: config, files, records, disk, installation."""
