"""Precision of matrix products."""
