"""eSCN (Passaro & Zitnick, ICML 2023): equivariant messages at the cost of SO(2) instead of SO(3) convolutions."""
