"""A demonstration data set in OC20's IS2RE format, made by relaxations with ASE's EMT potential."""
