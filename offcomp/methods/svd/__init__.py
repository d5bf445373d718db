"""Truncated SVD, plain or in a metric from calibration text."""
