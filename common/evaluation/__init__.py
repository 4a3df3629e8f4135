"""Turns features into scores: ranking, re-ranking, older protocols, feature files, pictures (README.md)."""
