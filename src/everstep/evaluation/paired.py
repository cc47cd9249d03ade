"""Any two measured versions against each other, example by example, from the errors on record. Never imports torch."""

import numpy as np

from everstep.evaluation.gain import log_ratios, paired_p
from everstep.records.errors import Errors, read_errors
from everstep.records.scores import read_scores
from everstep.records.verdict import PairedTest
from everstep.versions import Run


def paired_test(run: Run) -> PairedTest:
    """A function that tells how sure it is that one version's errors are larger than another's; None where their
    examples are not the same, or not on record.
    """
    digests: dict[int, str] = {}  # of the measured versions, read once it is asked

    def errors_of(version: int) -> Errors | None:
        if not digests:
            digests.update({number: scored.manifest_digest for number, scored in read_scores(run).items()})
        found = read_errors(run, version)
        return found if found is not None and found.manifest_digest == digests.get(version) else None

    def larger(version: int, other: int, condition: str) -> float | None:
        first, second = errors_of(version), errors_of(other)
        if first is None or second is None or first.design != second.design:
            return None
        ours, theirs = (np.array(errors.by_condition[condition]) for errors in (first, second))
        return paired_p(log_ratios(theirs, ours), np.array(first.places))

    return larger
