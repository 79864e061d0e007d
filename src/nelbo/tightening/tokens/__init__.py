"""Tightening of models of symbols: what the network said at draws, what is fitted to it, and the whole."""
