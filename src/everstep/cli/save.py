"""everstep save"""

from everstep.cli.asking import ask, refused_by_the_disk, wait_until_heard
from everstep.cli.place import open_run
from everstep.contracts import Reason
from everstep.errors import NotCommitted, UserError
from everstep.versions import read_answer


def save_(run: str, *, label: str | None = None, timeout_s: float = 600.0) -> int:
    """Let a running training commit a version after the step it is in.

    Parameters
    ----------
    label
        A name for the version: RUN@LABEL.
    timeout_s
        Seconds to wait for the commit.
    """
    opened = open_run(run)
    if opened.holder() is None:
        raise UserError(f"{opened.name} is not being trained; its last version is all there is to save.")
    before = opened.next_number()
    request = ask(opened, "save", label=label)
    wait_until_heard(opened, request, timeout_s)
    refused = read_answer(opened.layout, request)
    if refused is not None:
        raise NotCommitted(refused)
    made = [version for version in opened.versions() if version.number >= before and version.reason == Reason.ASKED]
    if not made:
        by_disk = refused_by_the_disk(opened)
        raise by_disk or UserError(f"{opened.name} could not save a version; what it prints says why.")
    named = [version for version in made if label in opened.annotation(version.number).labels]
    version = (named or made)[-1]
    print(f"{version.name} (step {version.step:,}) is {version.path}")
    if label is not None and not named:
        print(f"It has no label yet: everstep label {run}@{version.number} {label}")
    return 0
