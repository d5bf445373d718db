"""Sums of Kronecker products."""
