"""The parts of tools/make_base.py, in the order in which they are used."""
