"""How exactly products of matrices are formed."""
