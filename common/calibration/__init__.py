"""Checks the synthetic domains against their acceptance criteria, for which it trains small networks."""
