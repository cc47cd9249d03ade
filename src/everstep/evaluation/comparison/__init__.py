"""Versions held against each other: weights, settings, scores, pictures."""
