"""What can be known to fail, or to go wrong, before the first step of a training."""

from fairchem_hdgnn.integration.preflight.files import check_data_sets

__all__ = ["check_data_sets"]
