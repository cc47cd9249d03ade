"""Quietens the libraries: their bars for loads of a second, and warnings about what is not used here."""

import diffusers
import transformers

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()
