"""Tightening: a better bound from the same weights, without training."""
