"""Settings: what can be set, where a value came from, and what differs between two runs. Never imports torch."""

from everstep.config.load import Settings, changes, dump, flatten, read_hparams, resolve
from everstep.config.schema import Config

__all__ = ["Config", "Settings", "changes", "dump", "flatten", "read_hparams", "resolve"]
