"""A comparison put into tables, JSON and a page; the pictures were drawn before. Never imports torch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from everstep.contracts import Uint8Array
from everstep.evaluation.comparison.differences import (
    facts_that_differ,
    relative_in_words,
    settings_that_differ,
    short,
    weights_json,
)
from everstep.evaluation.comparison.distance import Distance
from everstep.evaluation.comparison.ground import Common
from everstep.evaluation.comparison.page import PictureRow, Sheet, Table, page
from everstep.units import size
from everstep.versions import Annotation, Version

HEADLINES = {
    "benefit": "benefit",
    "control_gain": "gain",
    "circle_iou": "IoU",
    "loss": "loss",
}  # the first that is known stands by pictures


@dataclass(frozen=True, slots=True)
class Side:
    """One version of a comparison. The distance is from the first one named; averaged: drawn with averaged weights."""

    name: str
    version: Version
    note: Annotation
    distance: Distance
    pictures: Sequence[Uint8Array]
    averaged: bool

    @property
    def headline(self) -> str:
        """Step and the score that says most, in a few words."""
        scores = ((words, self.note.scores[name]) for name, words in HEADLINES.items() if name in self.note.scores)
        best = next((f"{words} {value:.3f}" for words, value in scores), "")
        return ", ".join(part for part in (f"step {self.version.step:,}", best) if part)


def version_table(sides: Sequence[Side]) -> Table:
    """Step, images, size, every score that any of them has, and the distance from the first."""
    scores = list(dict.fromkeys(name for side in sides for name in side.note.scores))
    rows = [
        (
            side.name,
            f"{side.version.step:,}",
            f"{side.version.images_seen:,}",
            size(side.version.disk_bytes) + ("" if side.version.resumable else " (slim)"),
            *(f"{side.note.scores[name]:.4f}" if name in side.note.scores else "" for name in scores),
            _distance_in_words(side),
        )
        for side in sides
    ]
    return Table("Versions", ("version", "step", "images", "size", *scores, "distance"), rows)


def block_table(sides: Sequence[Side]) -> Table:
    """How far each block is from that of the first version."""
    first, others = sides[0], sides[1:]
    names = list(dict.fromkeys(name for side in others for name in side.distance.blocks))
    found = [[side.distance.blocks.get(name) for side in others] for name in names]
    return Table(
        f"Distance of weights from {first.name}, by block",
        ("block", *(side.name for side in others)),
        [
            (name, *("" if block is None else relative_in_words(block) for block in blocks))
            for name, blocks in zip(names, found, strict=True)
        ],
        [[0.0 if block is None else _share(block.relative) for block in blocks] for blocks in found],
        "||a - b|| / ||a|| over all weights of a block; a block that began at zero has no such measure.",
    )


def difference_table(sides: Sequence[Side]) -> Table | None:
    """Settings and facts that are not the same in all, or None."""
    versions = [side.version for side in sides]
    differing = {**settings_that_differ(versions), **facts_that_differ(versions)}
    rows = [(key, *(short(value) for value in values)) for key, values in differing.items()]
    return Table("What differs", ("setting", *(side.name for side in sides)), rows) if rows else None


def comparison_json(sides: Sequence[Side], common: Common) -> dict[str, Any]:
    """All of it as JSON."""
    versions = [side.version for side in sides]
    return {
        "pairs": [common.source.name(number) for number in common.numbers],
        "sampling": common.config.sampling.model_dump(mode="json"),
        "notes": list(common.notes),
        "versions": [_side_json(side) for side in sides],
        "settings": settings_that_differ(versions),
        "facts": facts_that_differ(versions),
    }


def comparison_page(title: str, sides: Sequence[Side], common: Common, sheet: Sheet) -> str:
    """The page: pictures, the tables, what differs."""
    base, data = sides[0].version.manifest["base"]["name"], common.source.description
    lead = [f"{base} at {common.config.data.resolution} px; {data}.", sampling_in_words(common), *common.notes]
    tables = [version_table(sides), block_table(sides), difference_table(sides)]
    return page(title, lead, sheet, [table for table in tables if table is not None])


def sampling_in_words(common: Common) -> str:
    """What all pictures were drawn with."""
    sampling = common.config.sampling
    return (
        f"{len(common.numbers)} pairs that no version was trained on; every version drew them from the same noise: "
        f"{sampling.scheduler}, {sampling.steps} steps, guidance {sampling.guidance_scale:g}, "
        f"condition scale {sampling.condition_scale:g}, seed {sampling.seed}."
    )


def picture_rows(sides: Sequence[Side]) -> list[PictureRow]:
    """A row of the page's sheet for each version."""
    return [PictureRow(side.name, _row_facts(side), list(side.pictures)) for side in sides]


def _row_facts(side: Side) -> str:
    return side.headline + (", averaged weights" if side.averaged else "")


def _side_json(side: Side) -> dict[str, Any]:
    version = side.version
    return {
        "version": side.name,
        "path": str(version.path),
        "step": version.step,
        "images_seen": version.images_seen,
        "size_bytes": version.disk_bytes,
        "resumable": version.resumable,
        **{key: value for key, value in asdict(side.note).items() if key in ("labels", "scores")},
        "averaged": side.averaged,
        "distance": weights_json(side.distance),
    }


def _distance_in_words(side: Side) -> str:
    distance = side.distance
    odd = len(distance.only_first) + len(distance.only_other) + len(distance.reshaped)
    return relative_in_words(distance.whole) + (f" ({odd} tensors differ in shape or name)" if odd else "")


def _share(relative: float | None) -> float:
    return 1.0 if relative is None else relative
