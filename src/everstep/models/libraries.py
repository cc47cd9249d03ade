"""Loads the libraries quietly: no bars for loads of a second, no warnings about what is not used here, nothing beside.

To be imported before whatever imports them.
"""

import sys

# diffusers loads it wherever it is installed, which takes two seconds, for nothing that is done here. What is None is
# not found; whoever imports it afterwards finds it.
HIDDEN = [name for name in ("bitsandbytes",) if name not in sys.modules]
sys.modules |= dict.fromkeys(HIDDEN)  # type: ignore[arg-type]
try:
    import diffusers
    import transformers
finally:
    for name in HIDDEN:
        del sys.modules[name]

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
diffusers.logging.set_verbosity_error()
diffusers.logging.disable_progress_bar()
