"""Captions as a base's tokenizer takes them: which it cuts, and by how much. Without torch."""

import heapq
import shlex
from collections.abc import Sequence
from typing import Any

from everstep.data.counts import counted
from everstep.data.layouts.listing import Finding, Listed
from everstep.models.tokens import as_taken

TOGETHER = 4096  # captions that become tokens at once
MOST_AT_START = 10_000  # about two seconds


def cut_captions(tokenizer: Any, pairs: Sequence[Listed], most: int | None = None) -> list[Finding]:
    """A warning for each caption of which the tokenizer leaves something out, with how much.

    Args:
        most: look at no more captions than this, the longest ones.
    """
    room = int(tokenizer.model_max_length) - 2  # two tokens mark begin and end
    # No letter becomes more tokens than it has bytes, of which it has four at most.
    long = [
        (caption, pair)
        for pair in pairs
        for caption in pair.captions
        if 4 * len(caption) > room and len(caption.encode()) > room
    ]
    if most is not None and len(long) > most:
        long = heapq.nlargest(most, long, key=lambda one: len(one[0]))
    found = []
    for first in range(0, len(long), TOGETHER):
        some = long[first : first + TOGETHER]
        for (_, pair), tokens in zip(some, _lengths(tokenizer, [caption for caption, _ in some]), strict=True):
            if tokens is None:
                what = "its caption is refused by the tokenizer, and trained on as an empty one"
                found.append(Finding(pair.line, pair.target, what, "warning", "unreadable"))
            elif tokens > room:
                what = f"its caption is {tokens:,} tokens long: all after the first {room} is cut"
                found.append(Finding(pair.line, pair.target, what, "warning", "cut"))
    return found


def say_cut(tokenizer: Any, pairs: Sequence[Listed], folder: str, base: str) -> str | None:
    """How many captions are cut, and how they are listed; None where none is."""
    found = cut_captions(tokenizer, pairs, MOST_AT_START)
    if not found:
        return None
    at_least = "At least " if len(found) == MOST_AT_START else ""
    command = f"everstep check {shlex.quote(folder)} --base {shlex.quote(base)}"
    return f"{at_least}{counted(found)}; {command} lists them."


def _lengths(tokenizer: Any, captions: list[str]) -> list[int | None]:
    """Tokens between the two marks; None where the tokenizer fails."""
    try:
        return [len(ids) - 2 for ids in tokenizer(captions, verbose=False).input_ids]
    except Exception:  # over one of them, in whatever way
        return [_length(tokenizer, caption) for caption in captions]


def _length(tokenizer: Any, caption: str) -> int | None:
    taken = as_taken(tokenizer, caption)
    return None if caption and not taken else len(tokenizer(taken, verbose=False).input_ids) - 2
