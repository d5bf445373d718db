"""Truncated SVD, either plain or under metrics computed from calibration text."""
