"""everstep label"""

from everstep.cli.place import open_version, refuse_if_gone
from everstep.errors import UserError
from everstep.versions import write_annotation

TAKEN = ("latest", "best")


def label_(version: str, label: str | None = None, *, off: str | None = None, note: str | None = None) -> int:
    """Give a version a name of its own, RUN@LABEL, or a note. A labelled version is kept.

    Parameters
    ----------
    version
        RUN@N.
    label
        The name; it moves here if another version of the run has it.
    off
        A label to take away.
    note
        A sentence about the version, shown by `everstep show`.
    """
    run, found = open_version(version)
    if label is not None and (label in TAKEN or label.lstrip("-").isdigit() or "@" in label or not label.strip()):
        raise UserError(f"{label!r} cannot be a label: it would be taken for something else.")
    before = run.annotation(found.number)
    labels = [name for name in before.labels if name not in (off, label)]
    if off is not None and off not in before.labels:
        raise UserError(f"{found.name} has no label {off!r}.")
    if label is not None:
        for other in run.versions():
            there = run.annotation(other.number).labels
            if other.number != found.number and label in there:
                left = tuple(name for name in there if name != label)
                write_annotation(run.layout, other.number, labels=left)
                print(f"{label!r} moved here from {other.name}.")
        labels.append(label)
    changes: dict[str, object] = {"labels": tuple(labels)}
    if note is not None:
        changes["note"] = note
    after = write_annotation(run.layout, found.number, **changes)
    refuse_if_gone(found)
    print(f"{found.name}: {', '.join(after.labels) or 'no labels'}{f'; {after.note}' if after.note else ''}")
    return 0
