"""Uniform quantization to a few bits, with one scale per block."""
