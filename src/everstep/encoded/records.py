"""Arrays as one record, and back: a line of JSON that says what follows, then plain bytes; pictures are packed.

bfloat16 is kept as it was computed, in two bytes, and read as float32, which holds every such number.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from everstep.contracts import Float32Array, Uint8Array

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I64": np.int64, "U8": np.uint8}
PACKING = 1  # of zlib: the fastest; outlines become a fiftieth, and photographs little less at any
Array = npt.NDArray[Any]


def pack(arrays: Mapping[str, tuple[str, Array]]) -> bytes:
    """
    Args:
        arrays: by name, the dtype's name and the array; of bfloat16 its bits as uint16.
    """
    told = {name: [dtype, array.shape] for name, (dtype, array) in arrays.items()}
    return json.dumps(told).encode() + b"\n" + b"".join(array.tobytes() for _, array in arrays.values())


def unpack(record: bytes) -> dict[str, Array]:
    """Numbers with fewer bits than float32 as float32. Arrays are read-only."""
    line = record.index(b"\n") + 1
    found, begin = dict[str, Array](), line
    for name, (dtype, shape) in json.loads(record[:line]).items():
        array = np.frombuffer(record, DTYPES[dtype], math.prod(shape), begin).reshape(shape)
        begin += array.nbytes
        found[name] = _widened(array, dtype)
    return found


def _widened(array: Array, dtype: str) -> Array:
    if dtype == "BF16":
        wide: Float32Array = (array.astype(np.uint32) << 16).view(np.float32)
        return wide
    return array.astype(np.float32) if dtype == "F16" else array


def pack_picture(picture_HWC: Uint8Array) -> bytes:
    """Without loss; a grey one as one channel."""
    is_grey = bool((picture_HWC[..., :1] == picture_HWC).all())
    kept = np.ascontiguousarray(picture_HWC[..., :1] if is_grey else picture_HWC)
    return json.dumps(kept.shape).encode() + b"\n" + zlib.compress(kept.data, PACKING)


def unpack_picture(record: bytes) -> Uint8Array:
    """Shapes: -> [H,W,3] uint8."""
    line = record.index(b"\n") + 1
    height, width, channels = json.loads(record[:line])
    picture = np.frombuffer(zlib.decompress(record[line:]), np.uint8).reshape(height, width, channels)
    return picture if channels == 3 else np.repeat(picture, 3, axis=2)
