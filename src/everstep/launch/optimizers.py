"""Whether an optimizer can be had with these settings. Never imports torch."""

from importlib.util import find_spec

from everstep.config.schema import Optim
from everstep.errors import UserError
from everstep.models.optimizers import LIBRARIES, PRODIGY

LEAST_FACTOR = 0.01  # of Prodigy's rate; what is smaller was meant as a rate


def check_optimizer(optim: Optim) -> None:
    """Raises: UserError if its library is missing, or the rate is none for it."""
    library = LIBRARIES.get(optim.optimizer)
    if library is not None and find_spec(library) is None:
        raise UserError(
            f"optim.optimizer is {optim.optimizer}, but {library} is not installed. Nothing was started. "
            "pip install 'everstep[optimizers]'"
        )
    if optim.optimizer == PRODIGY and optim.learning_rate < LEAST_FACTOR:
        raise UserError(
            f"optim.learning_rate is {optim.learning_rate:g}, but optim.optimizer is prodigy, which finds the rate "
            "itself and multiplies it by this. Nothing was started. --optim.learning-rate 1"
        )
