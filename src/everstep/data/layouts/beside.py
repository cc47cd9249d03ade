"""Pictures without a list: folders of files named alike, or one folder where endings of names tell what each is.

Captions lie in texts beside the targets (a.txt of a.png), or in a folder of their own.
"""

import os
from collections import Counter
from pathlib import Path

from everstep.data.layouts.columns import CONDITIONS, TARGETS, Columns, guess
from everstep.data.layouts.files import FolderFiles
from everstep.data.layouts.listing import Finding, Listed, Listing, made
from everstep.errors import UserError
from everstep.letters import printable
from everstep.plain_files import read_plain

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".gif")
TEXTS = (".txt", ".caption")
BETWEEN = "_-."
Stems = dict[str, dict[str, str]]  # folder or "" -> stem below it -> path


def has_pictures(folder: Path) -> bool:
    """Whether a picture lies in it, or in a folder in it."""
    for _, _, names in os.walk(folder, followlinks=True):
        if any(name.lower().endswith(PICTURES) for name in names):
            return True
    return False


def read_pictures(folder: Path, asked: Columns) -> Listing:
    """Pair what is named alike. Raises: UserError where it cannot be told what is what."""
    pictures, captions = _walk(folder, PICTURES), _walk(folder, TEXTS)
    if pictures.get(""):
        return _of_endings(folder, pictures[""], captions.get("", {}), asked)
    columns = guess(
        str(folder), [*pictures, *(name for name in captions if name not in pictures)], _with_rest(pictures, asked)
    )
    said = f"folders ({columns.in_words()})"
    target = str(columns.target)
    conditions = pictures.get(columns.condition, {}) if columns.condition else None
    beside = captions.get(columns.caption or target, {})
    if not columns.caption and beside:
        said = said.replace("no captions", "captions in .txt")
    return _paired(folder, said, pictures[target], conditions, beside if columns.caption or beside else None)


def _with_rest(pictures: Stems, asked: Columns) -> Columns:
    """Of two folders of which one is known, the other is the other."""
    if len(pictures) != 2 or (asked.target and asked.condition):
        return asked
    (one, other), known = pictures, {"target": TARGETS, "condition": CONDITIONS}
    for first, second in ((one, other), (other, one)):
        is_target = asked.target == first or (not asked.target and first.casefold() in known["target"])
        if is_target and not asked.condition:
            return Columns(asked.target, second, asked.caption)
        is_condition = asked.condition == first or (not asked.condition and first.casefold() in known["condition"])
        if is_condition and not asked.target and second.casefold() not in known["target"]:
            return Columns(second, asked.condition or first, asked.caption)
    return asked


def _of_endings(folder: Path, pictures: dict[str, str], captions: dict[str, str], asked: Columns) -> Listing:
    """a.png, a_canny.png and a.txt in one folder."""
    ending = asked.condition or _ending(folder, pictures)
    if asked.condition and not any(stem.endswith(asked.condition) for stem in pictures):
        raise UserError(
            f"{folder} has no picture whose name ends in {printable(asked.condition)}, as data.condition_column has "
            "it. Nothing was started."
        )
    targets, conditions = pictures, None
    if ending is not None:
        targets = {stem: path for stem, path in pictures.items() if not stem.endswith(ending)}
        conditions = {s.removesuffix(ending): path for s, path in pictures.items() if s.endswith(ending)}
    said = f"one folder (condition {ending}" if ending else "one folder (no conditions"
    said += f", caption{'s in .txt' if captions else ' none'})".replace("caption none", "no captions")
    return _paired(folder, said, targets, conditions, captions or None)


def _ending(folder: Path, pictures: dict[str, str]) -> str | None:
    """What names end in that are those of other pictures otherwise; the one that is as frequent as no other."""
    endings: Counter[str] = Counter()
    for stem in pictures:
        for place, letter in enumerate(stem):
            if letter in BETWEEN and place and stem[:place] in pictures:
                endings[stem[place:]] += 1
    worded = {ending: count for ending, count in endings.items() if not ending[1:].isdigit()}
    if not worded:
        return None
    best = max(worded.values())
    usual = [ending for ending, count in worded.items() if 2 * count > best]
    if len(usual) > 1:
        raise UserError(
            f"{folder} has pictures that end in {', '.join(map(printable, sorted(usual)))}: which are the conditions? "
            f"Nothing was started. Say it: --data.condition-column={sorted(usual)[0]}, and move the others away."
        )
    return usual[0]


def _paired(
    folder: Path, said: str, targets: dict[str, str], conditions: dict[str, str] | None, captions: dict[str, str] | None
) -> Listing:
    pairs: list[Listed] = []
    findings: list[Finding] = []
    for line, (stem, target) in enumerate(sorted(targets.items()), start=1):
        if conditions is not None and stem not in conditions:
            findings.append(Finding(line, target, "has no condition: no picture is named alike"))
            continue
        caption, fault = _caption(folder, captions, stem)
        if fault:
            findings.append(Finding(line, target, fault))
            continue
        pair, odd = made(line, target, [conditions[stem]] if conditions is not None else [], [caption])
        pairs.append(pair)
        findings += odd
    for stem in sorted(set(conditions or ()) - set(targets)):
        line = len(targets) + 1 + len(findings)
        findings.append(Finding(line, (conditions or {})[stem], "has no target: no picture is named alike"))
    files, is_captioned = FolderFiles(folder), captions is not None
    return Listing(str(folder), str(folder), said, tuple(pairs), tuple(findings), files, is_captioned)


def _caption(folder: Path, captions: dict[str, str] | None, stem: str) -> tuple[str, str]:
    """The text, or why there is none."""
    if captions is None:
        return "", ""
    if stem not in captions:
        return "", "has no caption: no .txt is named alike"
    try:
        return read_plain(folder / captions[stem]).decode("utf-8-sig").strip(), ""
    except UnicodeDecodeError:
        return "", f"has a caption, {captions[stem]}, that is no UTF-8 text"
    except (OSError, ValueError) as error:
        return "", f"has a caption, {captions[stem]}, that cannot be read ({error})"


def _walk(folder: Path, endings: tuple[str, ...]) -> Stems:
    """Files of these endings, by the folder at the top that they are in."""
    found: Stems = {}
    for root, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        below = os.path.relpath(root, folder)
        top, _, rest = ("", "", "") if below == "." else below.partition("/")
        for name in sorted(names):
            stem, ending = os.path.splitext(name)
            if ending.lower() in endings and not name.startswith("."):
                path = name if below == "." else f"{below}/{name}"
                found.setdefault(top, {})[f"{rest}/{stem}" if rest else stem] = path
    return found
