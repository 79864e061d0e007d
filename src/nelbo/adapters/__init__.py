"""Adapters: other people's networks as a `DiffusionModel`."""
