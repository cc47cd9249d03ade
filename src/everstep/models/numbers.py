"""Where a tensor's numbers lie in a file, and how they are read: one tensor at a time, in floats of 32 bits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from everstep.versions.tensorfile import ITEM_BYTES

if TYPE_CHECKING:
    import numpy as np

ITEMS_MOST = 1 << 40
NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4"}
FLOATS = ("F64", "F32", "F16", "BF16")


class Refused(Exception):
    """Why something cannot be taken: what is wrong with it, as the end of a sentence that begins with its name.

    Args:
        next_act: a sentence, or nothing.
    """

    def __init__(self, fault: str, next_act: str = "") -> None:
        super().__init__(fault)
        self.fault, self.next_act = fault, next_act


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a file. Units: begin and size in bytes; strides in numbers, None where they lie in order."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    strides: tuple[int, ...] | None
    size_bytes: int

    @property
    def items(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count

    def read(self, file: BinaryIO) -> "np.ndarray[Any, np.dtype[np.float32]]":
        """Raises: Refused if the file ends in it; OSError."""
        import numpy as np  # not at the top: verbs that only look load no numbers

        numbers = self.words(file)
        if self.dtype == "BF16":  # the upper half of a float of 32 bits
            return np.ascontiguousarray(np.left_shift(numbers.astype(np.uint32), 16)).view(np.float32)
        with np.errstate(over="ignore"):  # what does not fit is found as infinite
            return np.ascontiguousarray(numbers, dtype=np.float32).reshape(self.shape)

    def words(self, file: BinaryIO) -> "np.ndarray[Any, Any]":
        """The same as it lies there; BF16 as whole numbers. Raises: Refused if the file ends in it; OSError."""
        import numpy as np

        file.seek(self.begin)
        raw = np.empty(self.size_bytes, dtype=np.uint8)
        filled = 0
        while filled < raw.nbytes:
            taken = file.readinto(raw.data[filled:])  # type: ignore[attr-defined]
            if not taken:
                raise Refused("ends too early", "Fetch it again.")
            filled += taken
        flat = raw.view(NUMPY[self.dtype])
        if self.strides is not None and self.items:
            item = ITEM_BYTES[self.dtype]
            steps = tuple(step * item for step in self.strides)
            flat = np.lib.stride_tricks.as_strided(flat, self.shape, steps)
        return flat.reshape(self.shape)
