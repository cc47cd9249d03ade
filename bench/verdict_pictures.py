"""When do drawn pictures obey? By intersection over union (IoU), without a look at any score.

Circles: the mean IoU of the drawn circle and its outline passes 0.5. Other pairs: that of the silhouettes of picture
and target, what differs from the colour of the border, passes half its way from the first version to the last. Since
emoji are much alike, that rises with any blob: beside it stands when the IoU less that with another's target does.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from everstep.config.schema import Sampling
from everstep.contracts import Uint8Array
from everstep.data.layouts import circles
from everstep.evaluation.loading import config_of, weights_drawn_with
from everstep.evaluation.pictures.draw import draw
from everstep.evaluation.rescoring import open_scorer
from everstep.evaluation.scorer import Scorer
from everstep.versions import Run
from everstep.versions.torch import load_weights

BUILTIN = "builtin:circles"
DRAWN, DRAWING = 16, Sampling(steps=8, guidance_scale=1.0)
OBEYED_IOU, LEAST_RISE, LEAST_OWN_RISE, CONTRAST = 0.5, 0.1, 0.05, 40
Mask = npt.NDArray[np.bool_]


def true_steps(run: Run) -> dict[str, int | None]:
    """Of the first of two versions running whose drawn pictures obey."""
    versions = run.versions()
    config = config_of(versions[-1])
    sampling = config.sampling.model_copy(update={"pairs": DRAWN})
    scorer = open_scorer(config.model_copy(update={"sampling": sampling}), versions[-1])
    controlnet = scorer.family.load_controlnet(str(versions[-1].path / "controlnet"))
    is_circles = scorer.config.data.path == BUILTIN
    shown, more = [], []
    for version in versions:
        load_weights(controlnet, version, weights_drawn_with(version))
        drawn = draw(scorer.family, controlnet, scorer.shown, DRAWING)
        own, others = (circles_iou(drawn, scorer), 0.0) if is_circles else silhouettes_iou(drawn, scorer)
        shown.append(own)
        more.append(own - others)
    print(f"{run.name}: IoU {in_words(shown)}; less another's {in_words(more)}", flush=True)
    steps = [version.step for version in versions]
    if is_circles:
        return {"true_step": passes(steps, shown, OBEYED_IOU)}
    return {"true_step": half_way(steps, shown, LEAST_RISE), "own_step": half_way(steps, more, LEAST_OWN_RISE)}


def in_words(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)


def passes(steps: Sequence[int], shown: Sequence[float], level: float) -> int | None:
    twice = (place for place in range(1, len(shown) - 1) if min(shown[place : place + 2]) >= level)
    return next((steps[place] for place in twice), None)


def half_way(steps: Sequence[int], shown: Sequence[float], least_rise: float) -> int | None:
    """None, too, where it rises by too little to tell."""
    return None if shown[-1] - shown[0] < least_rise else passes(steps, shown, (shown[0] + shown[-1]) / 2)


def circles_iou(drawn: Sequence[Uint8Array], scorer: Scorer) -> float:
    """Whether the drawn circles are where the outlines are."""
    pairs = zip(drawn, scorer.numbers, strict=True)
    return float(np.mean([circles.circle_iou(picture, circles.circle(number)) for picture, number in pairs]))


def silhouettes_iou(drawn: Sequence[Uint8Array], scorer: Scorer) -> tuple[float, float]:
    """Whether what is drawn before its ground is where it is in the target, and in another pair's."""
    targets = [silhouette(one.target_HWC) for one in scorer.shown if one.target_HWC is not None]
    found = [silhouette(picture) for picture in drawn]
    own, others = ([iou(one, target) for one, target in zip(found, t, strict=True)] for t in (targets, rolled(targets)))
    return float(np.mean(own)), float(np.mean(others))


def rolled(targets: Sequence[Mask]) -> list[Mask]:
    return [*targets[1:], targets[0]]


def iou(one: Mask, other: Mask) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))


def silhouette(picture_HWC: Uint8Array) -> Mask:
    """Pixels that are not of the colour of the border, [H,W]."""
    border = np.concatenate([picture_HWC[0], picture_HWC[-1], picture_HWC[:, 0], picture_HWC[:, -1]])
    return np.asarray((np.abs(picture_HWC - np.median(border, axis=0)) > CONTRAST).any(axis=-1))
