"""Autoencoder with discrete latents along a row, decoded by a small state machine and stored with an entropy code."""
