"""Training of latent models: encoder, decoder and the chain over latents for one bound; the loop is that of images."""
