"""Sampling from a model of symbols."""
