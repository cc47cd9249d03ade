"""How well two maps of the same picture agree, one number per picture. Source: ControlNet++ (Li et al. 2024), eval/.

Knows nothing of where the maps come from. Maps are on one device and of one size.
"""

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_f1_score
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure
from torchmetrics.functional.segmentation import mean_iou

from everstep.errors import UserError

BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the five scales (Wang et al. 2003)
SMALLEST_PX = {5: 176, 4: 99, 3: 44, 2: 12}  # side that torchmetrics asks for, by number of scales


def edges_f1(found_BHW: Tensor, wanted_BHW: Tensor) -> list[float]:
    """F1 of edge pixels, 0..1: harmonic mean of precision and recall; 1 where neither map has any edge.

    Shapes: [B,H,W] bool.
    """
    f1_B = binary_f1_score(found_BHW.long(), wanted_BHW.long(), multidim_average="samplewise", zero_division=1.0)
    return _numbers(f1_B)


def ms_ssim(found_B1HW: Tensor, wanted_B1HW: Tensor) -> list[float]:
    """Multi-scale structural similarity, 0..1, of maps of values 0..1.

    The usual five scales need a side of 176 px; smaller maps are compared at fewer, the coarsest left out and the
    weights of the others scaled to a sum of one: four from 99 px, three from 44, two from 12. So values at different
    numbers of scales are not comparable. Raises: UserError below 12 px.
    """
    betas = _betas(min(found_B1HW.shape[-2:]))
    return _numbers(
        multiscale_structural_similarity_index_measure(
            found_B1HW, wanted_B1HW, data_range=1.0, betas=betas, reduction="none"
        )
    )


def depth_rmse(found_B1HW: Tensor, wanted_B1HW: Tensor) -> list[float]:
    """Root of the mean squared difference, 0..1, lower is better, after each map is stretched to 0..1 by itself.

    ControlNet++ stretches the condition alike, but divides the extracted map by its highest value alone and works on
    0..255: its figures are near 255 times these, and not zero for two maps that differ by a shift. A flat map is 0.
    """
    squared = (_stretched(found_B1HW) - _stretched(wanted_B1HW)) ** 2
    return _numbers(squared.mean(dim=(1, 2, 3)).sqrt())


def segmentation_miou(found_BHW: Tensor, wanted_BHW: Tensor) -> list[float]:
    """Mean over the classes of either map of intersection over union, 0..1, for each picture by itself.

    Papers give the mean over classes of a whole data set instead, where a class of few pictures weighs as much.

    Shapes: [B,H,W] int64, class numbers.
    """
    return [_miou(found_HW, wanted_HW) for found_HW, wanted_HW in zip(found_BHW, wanted_BHW, strict=True)]


def _miou(found_HW: Tensor, wanted_HW: Tensor) -> float:
    # Classes are renumbered to those that occur: a one-hot map of all of them would be large, and they do not count.
    present, numbered = torch.unique(torch.stack([found_HW, wanted_HW]), return_inverse=True)
    return float(mean_iou(numbered[:1], numbered[1:], num_classes=len(present), input_format="index"))


def _betas(side_px: int) -> tuple[float, ...]:
    scales = next((scales for scales, smallest_px in SMALLEST_PX.items() if side_px >= smallest_px), None)
    if scales is None:
        raise UserError(
            f"MS-SSIM needs pictures of at least {min(SMALLEST_PX.values())} px, these have {side_px}. "
            "Training and its versions are not touched. --set scoring.adherence=off leaves this score out."
        )
    return tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])


def _stretched(map_B1HW: Tensor) -> Tensor:
    lowest, highest = map_B1HW.amin(dim=(1, 2, 3), keepdim=True), map_B1HW.amax(dim=(1, 2, 3), keepdim=True)
    return (map_B1HW - lowest) / (highest - lowest).clamp_min(torch.finfo(map_B1HW.dtype).tiny)


def _numbers(values_B: Tensor) -> list[float]:
    return [float(value) for value in values_B.reshape(-1).tolist()]
