"""Captions as they are written: what about their letters is odd, and what of them can be trained on.

Knows letters only. How a caption becomes tokens is the base's affair.
"""

import re
import unicodedata

HALF_LETTER = re.compile("[\ud800-\udfff]")
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f]")
PAIRS_OF_HALVES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
LOST = "\ufffd"
SHOWN_LETTERS = 120


def whole_letters(text: str) -> str:
    """The text with � for every half of a letter, which no tokenizer and no file takes."""
    if text.isascii() or not HALF_LETTER.search(text):
        return text
    joined = PAIRS_OF_HALVES.sub(lambda found: found[0].encode("utf-16", "surrogatepass").decode("utf-16"), text)
    return HALF_LETTER.sub(LOST, joined)


def printable(text: str, most: int = SHOWN_LETTERS) -> str:
    """The text as any terminal can show it on one line: what is no letter as its escape, what is long cut."""
    cut = text if len(text) <= most else f"{text[:most]}..."
    if cut.isprintable():
        return cut
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in cut
    )


def oddity(caption: str) -> tuple[str, str] | None:
    """What is odd about the letters of a caption, as a kind and in words; None where nothing is."""
    if found := CONTROL.search(caption):
        return "control", f"its caption holds a control character ({_name(found[0])}), which is trained on as it is"
    if caption.isascii():
        return None
    if found := HALF_LETTER.search(PAIRS_OF_HALVES.sub("", caption)):
        escaped = found[0].encode("unicode_escape").decode("ascii")
        return "half_letter", f"its caption holds half a letter ({escaped}), which is trained on as {LOST}"
    if LOST in caption:
        return "half_letter", f"its caption holds {LOST}: a letter was lost when it was written"
    if (right := _misread(caption)) is not None:
        return "misread", f'its caption seems to be UTF-8 that was read as Latin-1 ("{printable(right, 60)}")'
    return None


def _name(letter: str) -> str:
    return "NUL" if letter == "\0" else f"U+{ord(letter):04X}"


def _misread(caption: str) -> str | None:
    """The caption as it was, where its letters are the bytes of UTF-8 one by one."""
    try:
        right = caption.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return None
    return right if all(unicodedata.category(letter)[0] != "C" for letter in right) else None
