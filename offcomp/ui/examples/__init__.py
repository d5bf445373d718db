"""The Examples page: which predictions changed."""
