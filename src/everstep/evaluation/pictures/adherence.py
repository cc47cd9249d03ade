"""Adherence: how well a drawn picture obeys its condition, where the condition can be taken from a picture again.

Owns which kinds there are, what each is called and needs. Choosing a kind loads no torch; opening one does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from everstep.config.schema import Config
from everstep.contracts import Uint8Array
from everstep.data.conditions import KINDS as KINDS_MADE
from everstep.data.layouts import circles
from everstep.data.recipe import FILE
from everstep.errors import UserError
from everstep.evaluation.pictures.measures import FEWEST_OF_A_SET, Drawn, Measure, mean_of
from everstep.places import spelled

if TYPE_CHECKING:
    import torch
    from torch import Tensor

CIRCLES = "builtin:circles"
OPENCV, TORCHMETRICS = "cv2", "torchmetrics"
Each = Callable[[Drawn], list[float]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a kind of adherence is called in the records, which libraries it needs, and whether a model too."""

    score: str
    libraries: tuple[str, ...]
    has_extractor: bool


KINDS = {
    "circles": Kind("circle_iou", (), has_extractor=False),
    "canny": Kind("canny_f1", (OPENCV, TORCHMETRICS), has_extractor=False),
    "lineart": Kind("lineart_ms_ssim", (TORCHMETRICS,), has_extractor=True),
    "softedge": Kind("softedge_ms_ssim", (TORCHMETRICS,), has_extractor=True),
    "depth": Kind("depth_rmse", (TORCHMETRICS,), has_extractor=True),
    "segmentation": Kind("seg_miou", (TORCHMETRICS,), has_extractor=True),
}
EXTRACTED = tuple(name for name, kind in KINDS.items() if kind.has_extractor and name != "depth")
MODELS = ("extractor", "clip", "fid")  # settings that are paths


def kind_for(setting: str, data_path: str, condition: str = FILE) -> str | None:
    """The kind that scoring.adherence asks for, None for none: auto is circles for the built-in data, elsewhere the
    kind of condition that is made, where the libraries that measure it are there, else off.

    Args:
        condition: what data.condition is.

    Raises: UserError if it asks for circles where the data has none.
    """
    if setting == "auto":
        if data_path == CIRCLES:
            return "circles"
        return condition if condition in KINDS and not _missing(KINDS[condition]) else None
    if setting == "circles" and data_path != CIRCLES:
        raise UserError(
            f"scoring.adherence is circles, which only {CIRCLES} has, but data.path is {data_path}. "
            "Nothing was started. --set scoring.adherence=off leaves it out."
        )
    return None if setting == "off" else setting


def check_scoring(config: Config) -> None:
    """What can be told of the settings before anything is loaded. Raises: UserError."""
    scoring = config.scoring
    kind = kind_for(scoring.adherence, config.data.path, config.data.condition)
    if kind is not None:
        _check(kind, KINDS[kind], extractor_of(config, kind), _is_made(config, kind))
    elif scoring.extractor is not None:
        raise UserError(
            f"scoring.extractor is {scoring.extractor}, but scoring.adherence is {scoring.adherence}, which uses none "
            f"here. Nothing was started. --set scoring.adherence=depth (or {', '.join(EXTRACTED)}) uses it."
        )
    for key in MODELS:
        path = getattr(scoring, key)
        if path is not None and not spelled(path).exists():
            raise UserError(f"scoring.{key} is {path}, which does not exist. Nothing was started.")


def check_most_pictures(config: Config) -> None:
    """A distance between sets takes more pictures than a contact sheet mostly shows. Raises: UserError."""
    if config.scoring.fid is None:
        return
    sheet, held_out = config.sampling.pairs, config.data.held_out_pairs
    most = min(sheet, held_out) if not config.scoring.pictures_overhead else held_out if sheet else 0
    if most < FEWEST_OF_A_SET:
        raise UserError(
            f"scoring.fid needs {FEWEST_OF_A_SET} drawn pictures, but with sampling.pairs {sheet}, data.held_out_pairs "
            f"{held_out} and scoring.pictures_overhead {config.scoring.pictures_overhead:g} there are at most {most}. "
            f"Nothing was started. --set sampling.pairs={FEWEST_OF_A_SET} draws them at each version"
            + (f", with --set data.held_out_pairs={FEWEST_OF_A_SET}." if held_out < FEWEST_OF_A_SET else ".")
        )


def extractor_of(config: Config, kind: str) -> str | None:
    """The model that takes conditions of this kind: where none is named, the one by which they are made."""
    named = config.scoring.extractor
    return config.data.condition_model if named is None and _is_made(config, kind) else named


def adherence_of(config: Config, device: "torch.device") -> Measure | None:
    """What the settings ask for; None for none. Raises: as `open_adherence`."""
    kind = kind_for(config.scoring.adherence, config.data.path, config.data.condition)
    if kind is None:
        return None
    return open_adherence(kind, extractor_of(config, kind), device, _is_made(config, kind))


def _is_made(config: Config, kind: str) -> bool:
    return config.data.condition == kind


def open_adherence(kind: str, extractor: str | None, device: "torch.device", is_made: bool = False) -> Measure:
    """Load what a kind needs. Raises: UserError if a library or the extractor is missing, or is not needed.

    Args:
        is_made: whether the conditions are made, for which lines need no extractor: they are made again without.
    """
    wanted = KINDS[kind]
    _check(kind, wanted, extractor, is_made)
    each: dict[str, Callable[[], Each]] = {
        "circles": lambda: _circle_iou,
        "canny": lambda: _canny_f1,
        "lineart": lambda: _open_lines("lineart", extractor, device),
        "softedge": lambda: _open_lines("softedge", extractor, device),
        "depth": lambda: _open_depth(str(extractor), device),
        "segmentation": lambda: _open_segmentation(str(extractor), device),
    }
    return Measure(wanted.score, mean_of(each[kind]()))


def _missing(kind: Kind) -> list[str]:
    return [library for library in kind.libraries if find_spec(library) is None]


def _check(kind: str, wanted: Kind, extractor: str | None, is_made: bool) -> None:
    missing = _missing(wanted)
    if missing:
        raise UserError(
            f"scoring.adherence is {kind}, which needs {' and '.join(missing)}, not installed here. "
            "Nothing was started. pip install 'everstep[scores]'"
        )
    if wanted.has_extractor and extractor is None and not is_made:
        folder = "a folder in transformers layout or " if kind in ("depth", "segmentation") else ""
        raise UserError(
            f"scoring.adherence is {kind}, but scoring.extractor is not set. Nothing was started. "
            f"--set scoring.extractor=PATH names {folder}an exported program (.pt2) that finds conditions in pictures."
        )
    if extractor is not None and not wanted.has_extractor:
        raise UserError(
            f"scoring.extractor is {extractor}, but scoring.adherence is {kind}, which uses none. Nothing was started. "
            "Leave one of the two out."
        )


# --- the kinds ---------------------------------------------------------------------------------------------


def _circle_iou(drawn: Drawn) -> list[float]:
    pairs = zip(drawn.pictures, drawn.pairs, strict=True)
    return [circles.circle_iou(picture, circles.circle(number)) for picture, number in pairs]


def _canny_f1(drawn: Drawn) -> list[float]:
    """The condition is itself a map of edges: bright pixels are edges."""
    from everstep.evaluation.pictures.agreement import edges_f1
    from everstep.models.extractors import canny

    return edges_f1(canny(drawn.pictures), _grey(drawn.conditions)[:, 0] > 0.5)


def _open_lines(kind: str, extractor: str | None, device: "torch.device") -> Each:
    """The extractor's lines must be bright where the condition's are; without one, they are made as conditions are."""
    from everstep.evaluation.pictures.agreement import ms_ssim
    from everstep.models.extractors import open_extractor

    if extractor is None:
        make = KINDS_MADE[kind]
        return lambda drawn: ms_ssim(_grey([make(each, None) for each in drawn.pictures]), _grey(drawn.conditions))
    extract = open_extractor("lineart" if kind == "lineart" else "softedge", extractor, device)
    return lambda drawn: ms_ssim(extract(drawn.pictures).clamp(0, 1), _grey(drawn.conditions).to(device))


def _open_depth(extractor: str, device: "torch.device") -> Each:
    """What is near must be bright in both, or dark in both; a scale or shift does not count."""
    from everstep.evaluation.pictures.agreement import depth_rmse
    from everstep.models.extractors import open_extractor

    extract = open_extractor("depth", extractor, device)
    return lambda drawn: depth_rmse(extract(drawn.pictures), _grey(drawn.conditions).to(device))


def _open_segmentation(extractor: str, device: "torch.device") -> Each:
    """Classes of the drawn picture against classes of the target, both by the extractor: no palette is needed."""
    from everstep.evaluation.pictures.agreement import segmentation_miou
    from everstep.models.extractors import open_extractor

    extract = open_extractor("segmentation", extractor, device)

    def each(drawn: Drawn) -> list[float]:
        targets = [target for target in drawn.targets if target is not None]
        return segmentation_miou(extract(drawn.pictures), extract(targets))

    return each


def _grey(pictures: Sequence[Uint8Array]) -> "Tensor":
    """Shapes: B pictures [H,W,3] uint8 -> [B,1,H,W] float32, 0..1."""
    import torch

    grey = [np.asarray(Image.fromarray(picture).convert("L"), dtype=np.float32) for picture in pictures]
    return torch.from_numpy(np.stack(grey)[:, None]) / 255
