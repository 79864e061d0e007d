"""Noise on sequences of symbols: kernels, laws of survival, and the counts of masked places."""
