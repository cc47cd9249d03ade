"""Families of base models: how each is loaded, encoded, trained on and sampled from."""
