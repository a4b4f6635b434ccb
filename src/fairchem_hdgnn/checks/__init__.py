"""What can be known to fail, or to go wrong, before the first step: config, files, records, disk, installation."""
