"""Autoencoder over weight rows, as in the paper."""
