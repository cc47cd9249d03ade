"""Versions on their way out of the house: files for programs that draw, each read back before it is there."""
