"""Where conditions have lines: in a few thin lines on an empty page, most of a picture's error is far from all of them.

Legend: h and w, the cells of the latents. Knows nothing of networks.
"""

import numpy as np
import numpy.typing as npt

from everstep.contracts import Uint8Array

CONTRAST = 32  # of 255, in any channel: what differs from the page by more is drawn
REACH = 32  # near is a 32nd of the picture: 16 pixels of 512
MOST_COVERED = 0.5  # where lines and what is near them cover more, the whole picture says as much
Cells = npt.NDArray[np.bool_]


def near_lines(condition_HWC: Uint8Array, height: int, width: int) -> Cells:
    """The cells in which something is drawn, and those near them, [h,w]. The page is the median colour."""
    page = np.median(condition_HWC, axis=(0, 1))
    drawn_HW = (np.abs(condition_HWC - page) > CONTRAST).any(axis=-1)
    rows, columns = drawn_HW.shape[0] // height, drawn_HW.shape[1] // width
    cells: Cells = drawn_HW[: rows * height, : columns * width].reshape(height, rows, width, columns).any(axis=(1, 3))
    reach = height // REACH
    around = np.lib.stride_tricks.sliding_window_view(np.pad(cells, reach), (2 * reach + 1, 2 * reach + 1))
    return np.asarray(around.any(axis=(2, 3)))


def near_either(own_HWC: Uint8Array, lent_HWC: Uint8Array, height: int, width: int) -> Cells:
    """Near the lines of one or of the other, [h,w]: the same whichever of the two is the true one, as a fair test needs
    it. Everywhere, where neither has any.
    """
    near = near_lines(own_HWC, height, width) | near_lines(lent_HWC, height, width)
    return near if near.any() else np.ones_like(near)
