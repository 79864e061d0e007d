"""The reverse model p_θ: data domain, denoiser, reverse steps, decoder, prior, and the model made of them."""
