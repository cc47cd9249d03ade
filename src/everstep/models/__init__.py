"""Families of base models: how each is loaded, encoded, trained on and sampled from."""

import logging
import os

# Read by the libraries while they are imported; what they say then (optional parts missing) helps nobody.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# diffusers imports it wherever it is installed; it then warns of kernels for other things that are not there.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
