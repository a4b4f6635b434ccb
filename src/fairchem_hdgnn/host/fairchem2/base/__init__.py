"""What the shipped configs for fairchem-core 2 share, as YAML: ``hydra: {searchpath: [pkg://...]}`` finds it here."""
