"""The bound of a model of symbols: its chains as a `Problem`, their controls, and the result with its units."""
