"""Versions side by side: the same held-out pairs and the same noise, drawn anew by each, with the base loaded once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from everstep.contracts import Uint8Array
from everstep.evaluation.comparison.ground import Common
from everstep.evaluation.comparison.page import PictureRow, Sheet
from everstep.evaluation.comparison.tables import Side, comparison_page, picture_rows
from everstep.evaluation.loading import open_base, weights_drawn_with
from everstep.evaluation.pictures.draw import Shown, draw, shown_pairs
from everstep.evaluation.pictures.sheet import sheet
from everstep.models.conditions import open_framer
from everstep.models.family import Family
from everstep.models.files import AVERAGED, CONTROLNET_CONFIG
from everstep.records.sheets import CELL_PX
from everstep.versions import Version, read_small
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights

LARGE_CELL_PX = 192


@dataclass(frozen=True, slots=True)
class Row:
    """What one version drew, a picture for each pair; averaged: with the averaged weights."""

    pictures: list[Uint8Array]
    averaged: bool


def shown_in(common: Common) -> list[Shown]:
    """The pairs that are drawn."""
    return shown_pairs(open_framer(common.config, common.source), common.numbers)


def draw_all(versions: Sequence[Version], common: Common, shown: Sequence[Shown]) -> Iterator[Row]:
    """One row after the other. Raises: DamageFound naming a version's tensor that is not what was committed."""
    family, network, kind = open_base(common.config), None, b""
    for version in versions:
        with reading(version.path):
            if network is None or read_small(version, CONTROLNET_CONFIG) != kind:
                network, kind = _network(family, version), read_small(version, CONTROLNET_CONFIG)
            weights = weights_drawn_with(version)
            load_weights(network, version, weights)
        yield Row(draw(family, network, shown, common.config.sampling), weights == AVERAGED)


def _network(family: Family, version: Version) -> Any:
    return family.load_controlnet(str(version.path / CONTROLNET_CONFIG.partition("/")[0]))


def comparison_sheet(title: str, shown: Sequence[Shown], sides: Sequence[Side]) -> Image.Image:
    """The contact sheet: condition, a row for each version, target."""
    drawn = {"\n".join([side.name, *side.headline.split(", ")]): side.pictures for side in sides}
    edge_px = shown[0].condition_HWC.shape[0]
    return sheet(title, shown, drawn, LARGE_CELL_PX if edge_px > CELL_PX else CELL_PX)


def page_of(title: str, sides: Sequence[Side], common: Common, shown: Sequence[Shown]) -> str:
    """The same and the tables as one HTML file."""
    conditions = PictureRow("condition", "", [item.condition_HWC for item in shown])
    targets = PictureRow("target", "", [item.target_HWC for item in shown])
    pictures = Sheet([item.caption for item in shown], [conditions, *picture_rows(sides), targets])
    return comparison_page(title, sides, common, pictures)
