"""What to do next where a training became no numbers: in one sentence, with the command."""

from everstep.config.schema import Config, Optim
from everstep.errors import FirstNotFinite, NotFinite, NothingTrained
from everstep.models.arithmetic import Arithmetic

HIGHEST_USUAL_RATE = 1e-3  # ControlNets are trained at 1e-5 to 1e-4


def advice(error: NotFinite, config: Config, arithmetic: Arithmetic, run: object) -> str:
    """The likeliest cause first: the precision, then what was brought, then a rate that nobody would choose."""
    resume, rate = f"everstep resume {run} --set", config.optim.learning_rate
    is_first = isinstance(error, FirstNotFinite)
    if isinstance(error, NothingTrained) or (is_first and arithmetic.precision == "fp16"):
        return f"Next: a precision that does not overflow, bf16 or fp32,\n  {resume} compute.precision=bf16"
    if is_first:  # the rate was not used yet
        return (
            "It is the first step: the cause is the base, or the weights begun with, not the learning rate.\n"
            f"  everstep sample {run}@0 --condition IMAGE --prompt TEXT     shows whether they draw at all"
        )
    if not rate <= HIGHEST_USUAL_RATE:
        usual = Optim.model_fields["learning_rate"].default
        return f"Next: a usual learning rate, as {rate:g} is far above any,\n  {resume} optim.learning_rate={usual:g}"
    return f"Next: a lower learning rate,\n  {resume} optim.learning_rate={rate / 2:g}"
