"""The contact sheet of a version under records/samples/, and beside it everything that drawing it again takes.

Knows where they lie and what they say. Does not draw.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from everstep.contracts import Uint8Array
from everstep.errors import UserError
from everstep.evaluation.samples import Shown, contact_sheet
from everstep.evaluation.scorer import Scorer
from everstep.versions import Run, Version, digest, fsops


@dataclass(frozen=True, slots=True)
class SheetFacts:
    """What the pictures of a sheet were drawn with."""

    run: str
    version: int
    step: int
    images_seen: int
    manifest_digest: str
    base: dict[str, Any]
    sampler: dict[str, Any]  # every setting of sampling, and the scheduler's own
    averaged: bool
    device: str
    precision: str
    threads: int
    libraries: dict[str, str]
    pairs: list[int]  # numbers in their source
    captions: list[str]
    digests: list[str]  # of each picture's pixels

    @property
    def title(self) -> str:
        return f"{self.run} · version_{self.version} · step {self.step:,} · {self.images_seen:,} images"


def sheet_path(run: Run, version: int) -> Path:
    """Of the PNG; the JSON is beside it."""
    return run.layout.samples / f"version_{version}.png"


def describe_sheet(
    run: Run, version: Version, scorer: Scorer, pictures: Sequence[Uint8Array], averaged: bool
) -> SheetFacts:
    """Everything that the pictures came from."""
    family, config, manifest = scorer.family, scorer.config, version.manifest
    sampling = config.sampling
    return SheetFacts(
        run=run.name,
        version=version.number,
        step=version.step,
        images_seen=version.images_seen,
        manifest_digest=version.manifest_digest,
        base=manifest["base"],
        sampler={
            **sampling.model_dump(mode="json"),
            "negative_prompt": "",
            "scheduler_config": family.sampler_config(sampling.scheduler),
        },
        averaged=averaged,
        device=str(family.arithmetic.device),
        precision=family.arithmetic.precision,
        threads=torch.get_num_threads(),
        libraries=manifest["libraries"],
        pairs=list(scorer.numbers),
        captions=[item.caption for item in scorer.shown],
        digests=[picture_digest(picture) for picture in pictures],
    )


def save_sheet(run: Run, facts: SheetFacts, shown: Sequence[Shown], pictures: Sequence[Uint8Array]) -> Image.Image:
    """Write the sheet and its facts under records/samples/. Raises: OSError."""
    page = contact_sheet(facts.title, shown, pictures)
    path = sheet_path(run, facts.version)
    path.parent.mkdir(exist_ok=True)
    page.save(path)
    told = {name: getattr(facts, name) for name in facts.__slots__}
    fsops.replace_file(path.with_suffix(".json"), (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return page


def read_sheet(run: Run, version: Version) -> SheetFacts:
    """Raises: UserError if the version has no sheet, or one of a version that had its number before."""
    path = sheet_path(run, version.number).with_suffix(".json")
    try:
        facts = SheetFacts(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(
            f"{version.name} has no contact sheet that could be drawn again: there is no {path}. "
            f"everstep score {run.word}@{version.number} draws one."
        ) from None
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); everstep score {run.word}@{version.number} draws anew."
        ) from None
    if facts.manifest_digest != version.manifest_digest:
        raise UserError(f"{path} speaks of another {version.name}: its manifest's digest differs.")
    return facts


def picture_digest(picture_HWC: Uint8Array) -> str:
    """Of the pixels, whatever file they are in."""
    return digest(np.ascontiguousarray(picture_HWC).data)
