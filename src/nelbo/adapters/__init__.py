"""Adapters: networks of other libraries as a `DiffusionModel`."""
