"""Truncated SVD, plain or under a metric from calibration text."""
