"""Layers that HDGNN and eSCN share."""
