"""The bound of a latent model: its chain as a `Problem`, and its result."""
