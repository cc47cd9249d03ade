"""A Framer whose pairs come out of the cache: no picture is decoded, no encoder is asked.

What is not there yet is made by the encoders that are handed in, each picture and prompt alone, and kept.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from everstep.contracts import Contents, Embedding, Framing, Moments, PairSource, Report, Uint8Array, Which
from everstep.data.conditions import Maker
from everstep.data.framing import PLAIN, Framed, Framer, Look, Prepared
from everstep.data.recipe import Recipe
from everstep.data.transform import CENTRE
from everstep.encoded.records import pack, pack_picture, unpack, unpack_picture
from everstep.encoded.shelf import MadeBy, Shelf, key_of
from everstep.errors import DamageFound, DataUnreadable

LATENTS, CONDITIONS, TEXT = "latents", "conditions", "text"
STAYS = "What was cached so far stays; the same command looks again."
Size = tuple[int, int] | None  # width and height; None for the square


class Encoders(Protocol):
    """What makes records; each call's bits depend on what it is given alone. Any threads may ask."""

    def moments(self, targets_BHWC: Uint8Array) -> list[dict[str, tuple[str, Any]]]:
        """Shapes: uint8 [B,H,W,3] -> for each what `records.pack` takes, under mean and, where drawn, deviation."""
        ...

    def prompt(self, prompt: str) -> dict[str, tuple[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Shelves:
    """The three that a training uses."""

    latents: Shelf
    conditions: Shelf
    text: Shelf

    def __iter__(self) -> Iterator[Shelf]:
        return iter((self.latents, self.conditions, self.text))


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to be encoded, with one of its conditions."""

    pair: int
    condition: int
    is_flipped: bool
    size: Size


def open_shelves(
    root: Path, framing: Framing, recipe: Recipe | None, encoders: dict[str, dict[str, Any]], report: Report
) -> Shelves:
    """
    Args:
        recipe: of conditions that are made.
        encoders: what decides the outcome of encoding; see Family.encoders.

    Raises: OSError.
    """
    shown = {"side": framing.resolution, "resize": framing.resize}
    conditions = {"resize": framing.condition_resize} if recipe is None else {"made": recipe.identity, **shown}
    return Shelves(
        latents=Shelf(root, MadeBy(LATENTS, {**encoders["latents"], **shown}), report),
        conditions=Shelf(root, MadeBy(CONDITIONS, {"side": framing.resolution, **conditions}), report),
        text=Shelf(root, MadeBy(TEXT, encoders["text"]), report),
    )


def latents_key(contents: Contents, job: Job) -> bytes:
    return key_of(contents.target, job.is_flipped, job.size)


def condition_key(contents: Contents, job: Job) -> bytes:
    """The target decides the crop."""
    return key_of(contents.conditions[job.condition], contents.target, job.is_flipped, job.size)


def text_key(prompt: str) -> bytes:
    return key_of(prompt)


class CachedFramer(Framer):
    """See above. Any threads may ask at once."""

    def __init__(
        self,
        source: PairSource,
        framing: Framing,
        maker: Maker | None,
        shelves: Shelves,
        encoders: Encoders | None,
    ) -> None:
        """
        Args:
            encoders: to make what is not there; None where all is, and encoders have left memory.
        """
        super().__init__(source, framing, maker)
        self.keeps_conditions = maker is None or not maker.is_drawn
        self.shelves, self.encoders = shelves, encoders
        self.refused: Report | None = None  # told once of a disk that takes no more; None where that is an error
        self._is_refused = False

    def prepared(self, pair: int, look: Look = PLAIN) -> Prepared:
        """Raises: DataUnreadable where what was there is damaged or gone; else as a Framer."""
        assert look.crop_at == CENTRE, "other crops are not kept"
        contents, which = self.source.contents(pair), look.which
        condition = int(which.condition * len(contents.conditions))
        job = Job(pair, condition, look.is_flipped, look.size)
        latents = self._get(self.shelves.latents, latents_key(contents, job))
        outline = self._get(self.shelves.conditions, condition_key(contents, job)) if self.keeps_conditions else None
        if latents is None or (outline is None and self.keeps_conditions):
            latents, outline = self.keep([job], [self.framed(job)])[0]
        # What is drawn anew for each example is not kept.
        condition_HWC = self(pair, look).condition_HWC if outline is None else unpack_picture(outline)
        found = unpack(latents)
        return Prepared(
            target_HWC=None,
            condition_HWC=condition_HWC,
            caption=contents.captions[int(which.caption * len(contents.captions))],
            frame=tuple(found["frame"].tolist()),
            moments=Moments(found["mean"], found.get("deviation")),
        )

    def text(self, caption: str) -> Embedding:
        """Raises: DataUnreadable where what was there is damaged or gone."""
        record = self._get(self.shelves.text, text_key(caption))
        if record is None:
            record = pack(self._makers().prompt(caption))
            self._add(self.shelves.text, text_key(caption), record)
        return unpack(record)

    def keep(self, jobs: Sequence[Job], framed: Sequence[Framed]) -> list[tuple[bytes, bytes | None]]:
        """Encode framed pairs of one size together and keep what they become: latents, and the condition if it is."""
        made = self._makers().moments(np.stack([one.target_HWC for one in framed]))
        records = list[tuple[bytes, bytes | None]]()
        for job, one, moments in zip(jobs, framed, made, strict=True):
            contents = self.source.contents(job.pair)
            latents = pack({"frame": ("I64", np.array(one.frame, np.int64)), **moments})
            self._add(self.shelves.latents, latents_key(contents, job), latents)
            outline = pack_picture(one.condition_HWC) if self.keeps_conditions else None
            if outline is not None:
                self._add(self.shelves.conditions, condition_key(contents, job), outline)
            records.append((latents, outline))
        return records

    def framed(self, job: Job) -> Framed:
        """What is encoded of a pair. Raises: DataUnreadable where it is not what it would be kept as."""
        count = len(self.source.contents(job.pair).conditions)
        which = Which(condition=(job.condition + 0.5) / count)
        framed, name = self(job.pair, Look(which, is_flipped=job.is_flipped, size=job.size)), self.source.name(job.pair)
        try:
            is_as_checked = self.source.is_as_checked(job.pair, job.condition)
        except (OSError, ValueError) as error:
            raise DataUnreadable(f"{name} or its condition cannot be read again ({error}). {STAYS}") from None
        if not is_as_checked:
            raise DataUnreadable(
                f"{name} or its condition has changed since it was checked, so it is not cached. {STAYS}"
            )
        return framed

    # --- inside --------------------------------------------------------------------------------------------

    def _add(self, shelf: Shelf, key: bytes, record: bytes) -> None:
        """Raises: OSError where what is made is not to be lost."""
        try:
            shelf.add(key, record)
        except OSError as error:
            self._lose(shelf, error)

    def _lose(self, shelf: Shelf, error: OSError) -> None:
        if self.refused is None:
            raise error
        shelf.let_go()
        if not self._is_refused:
            self._is_refused = True
            self.refused(f"{shelf.folder} takes no more ({error.strerror or error}): what is encoded is not kept. "
                         "Training goes on.")  # fmt: skip

    def close(self) -> None:
        """Keep what was made under way."""
        for shelf in self.shelves:
            try:
                shelf.flush()
            except OSError as error:
                self._lose(shelf, error)

    def _makers(self) -> Encoders:
        assert self.encoders is not None, "what is missing was asked for by _get, which says so"
        return self.encoders

    def _get(self, shelf: Shelf, key: bytes) -> bytes | None:
        """None where it is not there, and can be made. Raises: DataUnreadable where it cannot."""
        try:
            record = shelf.get(key)
        except (DamageFound, OSError):
            record = None
        if record is None and self.encoders is None:
            # Of threads that ask at once, one finds the damage, and the others find nothing there.
            lost = shelf.fault or f"A record in {shelf.folder} is not there any more"
            aside = ", and is set aside" if isinstance(lost, DamageFound) else ""
            raise DataUnreadable(f"{lost}. It was cached of the data{aside}. Training ends here; a resume makes it "
                                 "again and goes on.")  # fmt: skip
        return record
