"""A complete p(x) over sequences of symbols: domain, denoiser, reverse, prior, and the model that they make."""
