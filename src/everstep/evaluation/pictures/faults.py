"""Pictures that cannot be right: values that are no numbers, all black, one flat colour; and what likely made them.

Looks at the picture before it is rounded to 8 bits, where what is not a number would become black. Needs no torch.
"""

import numpy as np

from everstep.contracts import Float32Array

VISIBLE = 1 / 255  # one step of an 8-bit picture
OVERFLOW = "fp16 overflows above 65,504, most often in the VAE; --set compute.precision=bf16 (or fp32) avoids it"
# What version_0 draws is the base's own picture: its ControlNet adds nothing yet.
DIVERGED = "{precision} does not overflow here, so compare with everstep sample RUN@0: {verdict}"
VERDICT = (
    "if that is right, training has diverged and an older version and a lower learning rate help; "
    "if it is not, the fault is in the base or in the settings of sampling"
)


def picture_fault(picture_HWC: Float32Array, precision: str) -> str | None:
    """What is wrong with a drawn picture of values 0..1, and the likely cause, in one sentence; None if nothing is.

    A picture is black, or flat, if no value of a channel is one 8-bit step from the rest.
    """
    seen = _what_is_seen(picture_HWC)
    return f"{seen}: {_cause(precision)}" if seen else None


def _what_is_seen(picture_HWC: Float32Array) -> str | None:
    missing = ~np.isfinite(picture_HWC)
    if missing.all():
        return "no value is a finite number, it would be saved as black"
    if missing.any():
        return f"{max(float(missing.mean()), 0.0001):.2%} of its values are no finite numbers"
    if picture_HWC.max() < VISIBLE:
        return "all black"
    lowest, highest = picture_HWC.min(axis=(0, 1)), picture_HWC.max(axis=(0, 1))
    if (highest - lowest).max() < VISIBLE:
        rgb = ", ".join(str(round(float(value) * 255)) for value in lowest)
        return f"one flat colour ({rgb})"
    return None


def _cause(precision: str) -> str:
    return OVERFLOW if precision == "fp16" else DIVERGED.format(precision=precision, verdict=VERDICT)
