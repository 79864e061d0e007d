"""The likelihood of data under a model's probability-flow ODE."""
