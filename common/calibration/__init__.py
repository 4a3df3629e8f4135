"""Measures whether the synthetic domains meet their acceptance criteria. This package trains networks."""
