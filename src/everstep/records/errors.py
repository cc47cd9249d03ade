"""records/errors/: the squared error of every example of a measurement, so that any two versions compare as pairs.

One file a version, and base.json with those of the base alone, once. Never imports torch.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from everstep.versions import Run, fsops


@dataclass(frozen=True, slots=True)
class Errors:
    """Of one network. design: digest of the examples, which is the same where errors can be compared one by one.

    manifest_digest: of the version; empty for the base alone. places: which pair each example is of.
    by_condition: errors under each condition, all in the order of the examples.
    """

    design: str
    manifest_digest: str
    places: Sequence[int]
    by_condition: Mapping[str, Sequence[float]]


def write_errors(run: Run, version: int | None, errors: Errors) -> None:
    """File them under a version, None for the base alone, where they are not there yet. Raises: OSError."""
    path = _path(run, version)
    content = (json.dumps(asdict(errors)) + "\n").encode()
    if not path.exists() or path.read_bytes() != content:
        path.parent.mkdir(exist_ok=True)
        fsops.replace_file(path, content)


def read_errors(run: Run, version: int | None) -> Errors | None:
    """None where there are none, or none that can be read."""
    try:
        return Errors(**json.loads(_path(run, version).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def _path(run: Run, version: int | None) -> Path:
    return run.layout.records / "errors" / ("base.json" if version is None else f"version_{version}.json")
