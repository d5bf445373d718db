"""Autoencoder with discrete latents: pieces of rows coded as indices into a shared codebook."""
