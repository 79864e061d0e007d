"""Contrasts: one example under several conditions of a model, by paired draws.

alternatives: what is contrasted, and the terms of its draws · places: where along the chain they are made ·
race: which conditions are left, from the draws · contrast: the whole · result
"""
