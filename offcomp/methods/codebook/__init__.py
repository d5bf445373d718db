"""Autoencoder with discrete latents: pieces of rows encoded as indices into a shared codebook."""
