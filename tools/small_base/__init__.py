"""The parts of tools/make_base.py, in the order in which they are used."""

import everstep.models.libraries  # noqa: F401  (quietens the libraries)
