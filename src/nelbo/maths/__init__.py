"""Ground floor mathematics: Gaussians, bins, stable forms, splines, units, keyed random numbers.

Every function is elementwise or says over which axes it reduces, and computes in the dtype that it is given
(float64 everywhere outside networks and training steps).
"""
