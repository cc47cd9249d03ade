"""Any two measured versions against each other, example by example, from the errors on record. Never imports torch."""

import numpy as np

from everstep.evaluation.gain import BANDS, Floats, Ints, Paired, log_ratios, paired, paired_p
from everstep.records.errors import Errors, read_errors
from everstep.records.scores import read_scores
from everstep.records.verdict import TRUE, PairedTest
from everstep.versions import Run, Version


def paired_test(run: Run) -> PairedTest:
    """A function that tells how sure it is that one version's errors are larger than another's; None where their
    examples are not the same, or not on record.
    """
    digests: dict[int, str] = {}  # of the measured versions, read once it is asked

    def errors_of(version: int) -> Errors | None:
        if not digests:
            digests.update({number: scored.manifest_digest for number, scored in read_scores(run).items()})
        return _errors(run, version, digests.get(version))

    def larger(version: int, other: int, condition: str) -> float | None:
        found = _ratios(errors_of(other), errors_of(version), condition)
        return None if found is None else paired_p(*found)

    return larger


def compared(first: tuple[Run, Version], second: tuple[Run, Version]) -> Paired | None:
    """How much smaller the second's errors under the true condition are; None where they do not compare."""
    theirs, ours = (_errors(run, version.number, version.manifest_digest) for run, version in (first, second))
    found = _ratios(ours, theirs, TRUE)
    bases = {version.manifest["base"]["digest"] for _, version in (first, second)} if found is not None else set()
    if found is None or len(bases) > 1:  # other bases make other latents of the same pictures
        return None
    ratios, places = found
    return paired(ratios, places, np.arange(len(ratios)) % BANDS)  # in turn: evaluation/gain.py: design


def _errors(run: Run, number: int, manifest_digest: str | None) -> Errors | None:
    """Of the version that has this number now."""
    found = read_errors(run, number)
    return found if found is not None and found.manifest_digest == manifest_digest else None


def _ratios(first: Errors | None, second: Errors | None, condition: str) -> tuple[Floats, Ints] | None:
    """Logarithms of the first's errors over the second's, and which pair each is of, [N]."""
    if first is None or second is None or first.design != second.design:
        return None
    ours, theirs = (np.array(errors.by_condition[condition]) for errors in (first, second))
    return log_ratios(ours, theirs), np.array(first.places)
