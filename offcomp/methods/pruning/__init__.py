"""Magnitude pruning: the largest entries and their positions."""
