"""Latent models: an encoder q(z | x), a likelihood p(x | z) and a diffusion prior over z are one complete p(x)."""
