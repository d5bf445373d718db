"""Autoencoder over the rows of weight matrices (Banaei et al., 2023)."""
