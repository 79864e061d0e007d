"""Training of models of symbols: what the model is, and what a step minimises; the loop is that of images."""
