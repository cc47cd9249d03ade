"""The contact sheet of a version under records/samples/, and beside it everything that drawing it again takes.

Draws none itself.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from everstep.config.schema import Sampling
from everstep.contracts import Uint8Array
from everstep.evaluation.pictures.draw import Shown
from everstep.evaluation.pictures.sheet import contact_sheet
from everstep.evaluation.scorer import Scorer
from everstep.models.family import Family
from everstep.records.sheets import SheetFacts, sheet_path
from everstep.versions import Run, Version, digest, fsops


def describe_sheet(
    run: Run, version: Version, scorer: Scorer, pictures: Sequence[Uint8Array], averaged: bool
) -> SheetFacts:
    """Everything that the pictures came from."""
    family, config, manifest = scorer.family, scorer.config, version.manifest
    return SheetFacts(
        run=run.name,
        version=version.number,
        step=version.step,
        images_seen=version.images_seen,
        manifest_digest=version.manifest_digest,
        base=manifest["base"],
        sampler=sampler_facts(family, config.sampling),
        averaged=averaged,
        **arithmetic_facts(family),
        libraries=manifest["libraries"],
        pairs=list(scorer.numbers),
        captions=[item.caption for item in scorer.shown],
        digests=[picture_digest(picture) for picture in pictures],
        drawn_together=scorer.drawn_together,
    )


def sampler_facts(family: Family, sampling: Sampling) -> dict[str, Any]:
    """Every setting of sampling, and the scheduler's own."""
    scheduler = family.sampler_config(sampling.scheduler)
    return {**sampling.model_dump(mode="json"), "negative_prompt": "", "scheduler_config": scheduler}


def arithmetic_facts(family: Family) -> dict[str, Any]:
    """On what, and in what, was computed."""
    arithmetic = family.arithmetic
    return {
        "device": str(arithmetic.device),
        "precision": arithmetic.precision,
        "threads": torch.get_num_threads(),
    }


def save_sheet(run: Run, facts: SheetFacts, shown: Sequence[Shown], pictures: Sequence[Uint8Array]) -> Image.Image:
    """Write the sheet and its facts under records/samples/. Raises: OSError."""
    page = contact_sheet(facts.title, shown, pictures)
    path = sheet_path(run, facts.version)
    path.parent.mkdir(exist_ok=True)
    page.save(path)
    told = {name: getattr(facts, name) for name in facts.__slots__}
    fsops.replace_file(path.with_suffix(".json"), (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())
    return page


def picture_digest(picture_HWC: Uint8Array) -> str:
    """Of the pixels, whatever file they are in."""
    return digest(np.ascontiguousarray(picture_HWC).data)
