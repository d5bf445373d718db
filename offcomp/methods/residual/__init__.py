"""SVD plus a small autoencoder and a sparse part for the residual."""
