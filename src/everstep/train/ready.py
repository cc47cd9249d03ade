"""What a training is built from, all of it located and locked, and whether it is what a version was made from.

Never imports torch.
"""

import shlex
from dataclasses import dataclass
from typing import Any

from everstep.config.schema import Config
from everstep.contracts import Changes, Counted, During, ParentRef, Report
from everstep.data import BucketOrder, Order, Source, Split, SquareOrder, split, split_as
from everstep.data.buckets import shapes_of
from everstep.errors import UserError
from everstep.models.base import BaseFolder, differing_files
from everstep.models.conditions import open_pairs, try_recipe
from everstep.places import as_word
from everstep.telling import untold
from everstep.versions import Run, Version


@dataclass(frozen=True, slots=True)
class Ready:
    """All that a training needs to be built: checked, located and locked."""

    run: Run
    config: Config
    base: BaseFolder
    base_digest: str
    source: Source
    version: Version | None  # to go on from; None to begin at step 0
    parent: ParentRef | None


def open_data(config: Config, report: Report, during: During = untold) -> Source:
    """Open and check the pairs. Raises: UserError listing every pair that cannot be used."""
    with during("Checking the pairs", "pictures") as said:
        source = open_pairs(config.data, report, said)
    with during("Trying the function that makes conditions"):
        try_recipe(config, source)
    return source


def check_origin(version: Version, base: BaseFolder, source: Source, accepts_data: bool) -> Changes:
    """Returns the data's change if it is accepted. Raises: UserError if base or data are not the version's."""
    _refuse_other_base(version, base)
    was, now = version.manifest["data"]["fingerprint"], source.fingerprint()
    if was == now:
        return {}
    if accepts_data:
        return {"data.fingerprint": (was, now)}
    _refuse_other_conditions(version, source)
    path = shlex.quote(version.manifest["data"]["path"])
    raise UserError(
        f"The pairs in {path} have changed since {version.name} was made. Nothing was changed.\n"
        f"To go on with them as they are now: everstep resume {as_word(version.path.parent)} --set data.path={path}"
    )


def _refuse_other_conditions(version: Version, source: Source) -> None:
    """Raises: UserError where the conditions are made otherwise than the version's were; of pairs, others tell."""
    was, now = version.manifest["data"].get("condition"), condition_of(source)
    if was == now:
        return
    run, recipe = as_word(version.path.parent), source.recipe
    what, key = "The way in which conditions are made has", "condition"
    place = "file" if recipe is None else recipe.kind
    if recipe is not None and recipe.path is not None:
        is_function = recipe.kind == "function"
        key, place = (
            ("condition", f"{recipe.path}:{recipe.function}") if is_function else ("condition_model", str(recipe.path))
        )
        if was is not None and was["kind"] == recipe.kind:
            what = f"The condition {'function' if is_function else 'model'} in {recipe.path} has"
    raise UserError(
        f"{what} changed since {version.name} was made. Nothing was changed.\n"
        f"To go on with it as it is now: everstep resume {run} --set {shlex.quote(f'data.{key}={place}')}"
    )


def condition_of(source: Source) -> dict[str, Any] | None:
    """What the manifest says of how conditions are made; None where they are pictures."""
    return None if source.recipe is None else source.recipe.identity


def base_digest_of(base: BaseFolder, version: Version | None, said: Counted = lambda done, total: None) -> str:
    """As the version recorded it, where that still holds: one run has one."""
    return base.digest(None if version is None else version.manifest["base"]["digest"], said)


def _refuse_other_base(version: Version, base: BaseFolder) -> None:
    was = version.manifest["base"]
    now = base_digest_of(base, version)
    if now == was["digest"]:
        return
    said = f"The base is not the one that {version.name} was trained on: {now}, but it was {was['digest']}."
    files = differing_files(was.get("files", {}), base.file_digests()) if was.get("files") else ""
    raise UserError(f"{said} Nothing was changed.{chr(10) if files else ''}{files}")


def pairs_of(config: Config, source: Source, version: Version | None) -> Split:
    """Which pairs are trained on. What was held out before stays held out, whatever became of the data."""
    if version is None:
        return split(source, config.data.held_out_pairs, looks=source.looks())
    return split_as(source, config.data.held_out_pairs, version.manifest["data"])


def order_of(config: Config, source: Source, base: BaseFolder, pairs: Split) -> Order:
    """Which pairs come when, and in which shape; of settings with nothing left open."""
    data, optim = config.data, config.optim
    if data.shape == "square":
        return SquareOrder(pairs.training, optim.seed, optim.batch_size)
    assert data.resolution is not None, "the base's own, once it is known"
    shapes = shapes_of(data.resolution, base.step())
    return BucketOrder(pairs.training, source.sizes(), shapes, optim.seed, optim.batch_size)
