"""Estimators that plan their own budget: a pilot, a fit of the terms, an allocation of draws, two designs of drawing.

Nothing here knows a kind of chain: everything is asked of a `Problem` and computed by a `Runner`.
"""
