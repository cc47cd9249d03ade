"""How far a prediction is from what was wanted: one function for each measure.

Knows nothing of networks. Legend: B batch, C channels, H height, W width of latents.
"""

from torch import Tensor


def squared_error(prediction_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
    """Mean squared error of each example, [B], in float32."""
    return (prediction_BCHW.float() - wanted_BCHW.float()).square().mean(dim=(1, 2, 3))


def squared_error_maps(prediction_BCHW: Tensor, wanted_BCHW: Tensor) -> Tensor:
    """Squared error of each place, mean over channels, [B,H,W], in float32."""
    return (prediction_BCHW.float() - wanted_BCHW.float()).square().mean(dim=1)
