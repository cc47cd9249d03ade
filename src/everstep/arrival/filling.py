"""What a ControlNet's tensor is where it begins as the base does: the base's own, zero, or drawn by its name."""

import math
import zlib
from typing import TYPE_CHECKING, Any

from everstep.models.base import BaseFolder
from everstep.models.foreign import open_foreign, reading
from everstep.models.numbers import Refused

if TYPE_CHECKING:
    import numpy as np

ZEROS = ("controlnet_down_blocks.", "controlnet_mid_block.", "controlnet_cond_embedding.conv_out.")
HINT = "controlnet_cond_embedding."
KERNEL_AXES = 4


def beginning_of(name: str, shape: tuple[int, ...], base: BaseFolder) -> "np.ndarray[Any, np.dtype[np.float32]]":
    """Raises: Refused if the base has no such tensor."""
    import numpy as np

    if name.startswith(ZEROS):
        return np.zeros(shape, np.float32)
    if name.startswith(HINT):  # as wide as PyTorch begins a convolution; a bias as if it had a kernel of its width
        inputs = math.prod(shape[1:]) if len(shape) == KERNEL_AXES else shape[0] * 9
        bound = 1 / math.sqrt(inputs)
        drawn = np.random.default_rng(zlib.crc32(name.encode()))
        return drawn.uniform(-bound, bound, shape).astype(np.float32)
    for file in base.weights("unet").tensor_files:
        place = open_foreign(file).tensors.get(name)
        if place is not None and place.shape == shape:
            with reading(file) as (opened, _):
                return place.read(opened)
    raise Refused(f"lacks {name}, and {base.name} has none of this shape")
