"""The power cuts that a line of changes can meet, and what each leaves: every moment, and subsets of all that was not
flushed by then."""

import hashlib
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from disk import KEPT, LOST, RUBBISH, VANISHED, WHOLE_FILES, ZEROS, Change, Data, Entry, Fates, Recorder, Sync, Tree


@dataclass(frozen=True)
class Cut:
    """One moment, and what became of what was not flushed."""

    done: int  # changes made before it
    fates: Fates

    def __str__(self) -> str:
        return f"after {self.done} changes, of which {dict(sorted(self.fates.items()))}"


def at_risk(changes: Sequence[Change]) -> dict[int, tuple[str, ...]]:
    """Numbers of the changes that a cut now could undo, and what may become of each if it is not kept."""
    flushed = {change.node: number for number, change in enumerate(changes) if isinstance(change, Sync)}

    def is_flushed(node: int, number: int) -> bool:
        return flushed.get(node, -1) > number

    found: dict[int, tuple[str, ...]] = {}
    for number, change in enumerate(changes):
        if isinstance(change, Data) and not is_flushed(change.node, number):
            found[number] = WHOLE_FILES if change.size_bytes is None else (LOST,)
        elif isinstance(change, Entry) and not is_flushed(change.folder, number):
            moved_from = change.old_folder
            if moved_from in (None, change.folder):
                found[number] = (LOST,)
            else:
                assert moved_from is not None
                found[number] = (VANISHED,) if is_flushed(moved_from, number) else (LOST, VANISHED)
    return found


def cuts(changes: Sequence[Change], draws: random.Random, samples: int) -> Iterator[Cut]:
    """Every moment: with all kept, with nothing that was not flushed, with each name alone lost or kept, with the bytes
    of all files lost in each way, and subsets drawn at random."""
    for done in range(len(changes) + 1):
        risk = at_risk(changes[:done])
        worst = {number: fates[0] for number, fates in risk.items()}
        names = [number for number in risk if isinstance(changes[number], Entry)]
        yield Cut(done, {})
        if not risk:
            continue
        yield Cut(done, worst)
        for fate in (LOST, ZEROS, RUBBISH):
            yield Cut(done, {number: fate for number, fates in risk.items() if fate in fates and number not in names})
        for name in names:
            yield from (Cut(done, {name: fate}) for fate in risk[name])
            yield Cut(done, {number: fate for number, fate in worst.items() if number != name})
        yield from (Cut(done, {done - 1: fate}) for fate in risk.get(done - 1, ()))
        for _ in range(samples):
            kept = draws.random()
            yield Cut(done, {n: draws.choice(fates) for n, fates in risk.items() if draws.random() > kept})


def left(before: Tree, changes: Sequence[Change], cut: Cut, seed: int = 0) -> dict[str, bytes | None]:
    """What lies on the disk afterwards: path -> bytes, None for a folder."""
    tree, draws = before.copy(), random.Random(seed)
    for number, change in enumerate(changes[: cut.done]):
        tree.apply(change, cut.fates.get(number, KEPT), draws)
    return tree.files()


def try_all(
    recorder: Recorder,
    root: Path,
    check: Callable[[Path, Cut], None],
    samples: int,
    seed: int,
    changes: Sequence[Change] | None = None,
    first: int = 0,
) -> int:
    """Put what each cut leaves at the root and check it; returns how many different states there were.

    Args:
        changes: instead of those that were recorded.
        first: cuts before so many changes are left out.
    """
    changes = recorder.changes if changes is None else changes
    seen = set()
    for cut in cuts(changes, random.Random(seed), samples):
        if cut.done < first:
            continue
        files = left(recorder.before, changes, cut, seed)
        key = (hashlib.blake2b(repr(sorted(files.items())).encode()).digest(), cut.done == len(changes))
        if key in seen:
            continue
        seen.add(key)
        _put(files, root)
        try:
            check(root, cut)
        except AssertionError as error:
            error.add_note(f"power cut {cut}")
            raise
        shutil.rmtree(root)
    return len(seen)


def _put(files: dict[str, bytes | None], root: Path) -> None:
    root.mkdir(parents=True)
    for path in sorted(files):
        content = files[path]
        if content is None:
            (root / path).mkdir()
        else:
            (root / path).write_bytes(content)
