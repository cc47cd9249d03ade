"""What a training is built from, all of it located and locked, and whether it is what a version was made from.

Never imports torch.
"""

import shlex
from dataclasses import dataclass

from everstep.config import Config
from everstep.contracts import Changes, Counted, During, ParentRef, Report
from everstep.data import Source, Split, source_of, split, split_as
from everstep.errors import UserError
from everstep.models.base import BaseFolder, differing_files
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
        return source_of(config.data, report, said)


def check_origin(version: Version, base: BaseFolder, source: Source, accepts_data: bool) -> Changes:
    """Returns the data's change if it is accepted. Raises: UserError if base or data are not the version's."""
    _refuse_other_base(version, base)
    was, now = version.manifest["data"]["fingerprint"], source.fingerprint()
    if was == now:
        return {}
    if accepts_data:
        return {"data.fingerprint": (was, now)}
    path = shlex.quote(version.manifest["data"]["path"])
    raise UserError(
        f"The pairs in {path} have changed since {version.name} was made. Nothing was changed.\n"
        f"To go on with them as they are now: everstep resume {as_word(version.path.parent)} --set data.path={path}"
    )


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
