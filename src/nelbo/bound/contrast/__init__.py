"""Contrasts: one example under several conditions of a model, by paired draws.

alternatives: what is contrasted, and the terms of its draws · places: where along the chain they are made · pilot: what
is known before the first draw · spread: what that says of variances · looks: means and variances of draws that come in
looks · race: which conditions are left, from the draws · contrast: the whole · result
"""
