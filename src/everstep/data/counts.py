"""What was found in a list of pairs, in numbers: one phrase for each kind, for those who do not want all the lines."""

from collections import Counter
from collections.abc import Iterable

from everstep.data.layouts.listing import Finding

# Kind of finding -> how one is told, and how several are.
PHRASES = {
    "flat": ("condition is nearly one colour", "conditions are nearly one colour"),
    "same_file": ("pair has one file as target and condition", "pairs have one file as target and condition"),
    "repeated": ("pair is there twice", "pairs are there twice"),
    "small": ("picture is smaller than what is trained on", "pictures are smaller than what is trained on"),
    "empty": ("caption is empty", "captions are empty"),
    "cut": ("caption is cut", "captions are cut"),
    "half_letter": ("caption holds half letters", "captions hold half letters"),
    "control": ("caption holds control characters", "captions hold control characters"),
    "misread": ("caption seems to be misread UTF-8", "captions seem to be misread UTF-8"),
    "unreadable": ("caption is refused by the tokenizer", "captions are refused by the tokenizer"),
}


def counted(findings: Iterable[Finding]) -> str:
    """3 conditions are nearly one colour, 12 captions are cut; empty where there is nothing odd."""
    counts = Counter(finding.kind for finding in findings if finding.severity == "warning")
    phrases = []
    for kind, (one, several) in PHRASES.items():
        if number := counts.pop(kind, 0):
            phrases.append(f"{number:,} {one if number == 1 else several}")
    if others := counts.total():
        phrases.append(f"{others:,} other things are odd")
    return ", ".join(phrases)
