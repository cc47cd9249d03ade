"""Captions as a base's tokenizer takes them: which it cuts, and by how much. Without torch."""

from collections.abc import Sequence
from typing import Any

from everstep.data.captions import whole_letters
from everstep.data.folder import Finding, Listed
from everstep.models.base import BaseFolder

TOGETHER = 4096  # captions that are cut into tokens at once


def open_tokenizer(base: BaseFolder) -> Any:
    """The base's tokenizer, as a training loads it."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(base.path / "tokenizer")


def refused(tokenizer: Any, caption: str) -> bool:
    """Whether a tokenizer fails on a caption; one that does is trained on as the empty one."""
    try:
        tokenizer(whole_letters(caption))
    except Exception:  # whatever a tokenizer raises
        return True
    return False


def cut_captions(tokenizer: Any, pairs: Sequence[Listed]) -> list[Finding]:
    """A warning for each caption of which the tokenizer leaves something out, with how much."""
    most = int(tokenizer.model_max_length)
    # No letter becomes more tokens than it has bytes, and two tokens mark begin and end.
    long = [pair for pair in pairs if 4 * len(pair.caption) > most - 2 and _may_be_cut(pair.caption, most - 2)]
    found = []
    for first in range(0, len(long), TOGETHER):
        some = long[first : first + TOGETHER]
        for pair, tokens in zip(some, _lengths(tokenizer, [pair.caption for pair in some]), strict=True):
            if tokens is None:
                what = "its caption is refused by the tokenizer, and trained on as an empty one"
                found.append(Finding(pair.line, pair.target, what, "warning", "unreadable"))
            elif tokens > most:
                what = f"its caption is {tokens - 2:,} tokens long; what follows the first {most - 2} is cut"
                found.append(Finding(pair.line, pair.target, what, "warning", "cut"))
    return found


def most_cut(found: Sequence[Finding]) -> int:
    return len(found)


def _may_be_cut(caption: str, most: int) -> bool:
    return len(caption.encode()) > most


def _lengths(tokenizer: Any, captions: list[str]) -> list[int | None]:
    try:
        return [len(ids) for ids in tokenizer(captions, verbose=False).input_ids]
    except Exception:  # one of them, in whatever way
        return [None if refused(tokenizer, caption) else len(tokenizer(caption).input_ids) for caption in captions]
