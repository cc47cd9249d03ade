"""Every name and path of a run on disk. No other module builds one."""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from everstep.errors import UserError
from everstep.places import here, spelled

RUNS = Path("runs")
MANIFEST = "manifest.json"
HPARAMS = "hparams.yaml"
TRAINING = "training"  # folder of a version that only a resume needs; slim removes it
MIRROR = "mirror.json"  # whose copies a folder holds; what has it is no run to be written to
DIGESTS = "digests.json"  # of every tensor; apart from the manifest, which a listing has to read whole
VERSION_NAME = re.compile(r"version_(0|[1-9]\d*)")
NUMBERED = re.compile(r"version_(0|[1-9]\d*)(?:[.-].*)?")
UNMADE_NAME = re.compile(r"\.(.+)\.[0-9a-f]{8}\.new")
PLANNED_NAME = re.compile(r"\..+\.[0-9a-f]{8}\.plan")
STAGING_NAME = re.compile(r"\.version_(?:0|[1-9]\d*)\.[0-9a-f]{8}\.part")


@dataclass(frozen=True, slots=True)
class RunLayout:
    """Where things are in a run's folder."""

    root: Path

    @property
    def hparams(self) -> Path:
        return self.root / HPARAMS

    @property
    def readme(self) -> Path:
        return self.root / "README.txt"

    @property
    def log(self) -> Path:
        return self.root / "log.jsonl"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def requests(self) -> Path:
        return self.root / ".requests"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def samples(self) -> Path:
        return self.records / "samples"

    @property
    def tried(self) -> Path:
        return self.records / "tried"

    @property
    def nodes(self) -> Path:
        """Where machines that train together leave words for each other."""
        return self.records / "nodes"

    @property
    def live(self) -> Path:
        return self.records / "live.json"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine"

    @property
    def identity(self) -> Path:
        """Made with the run and never changed: tells it from another run that was at the same place before."""
        return self.root / ".id"

    @property
    def best_score(self) -> Path:
        """Which score RUN@best goes by, as whoever writes the run last said."""
        return self.root / ".best"

    @property
    def prune_lock(self) -> Path:
        return self.root / ".prune"

    @property
    def trash(self) -> Path:
        return self.root / ".trash"

    def version(self, number: int) -> Path:
        return self.root / f"version_{number}"

    def annotation(self, number: int) -> Path:
        return self.records / f"version_{number}.json"

    def new_staging(self, number: int) -> Path:
        """A name of its own for each try, so that a leftover never stands in the way."""
        return self.root / f".version_{number}.{secrets.token_hex(4)}.part"


def run_folder(name: str) -> Path:
    """Where the run of this name is: a bare name is a folder in runs/, anything with a slash is a path.

    An @ may be anywhere in the way to a run; in a new run's own name it would be taken for RUN@N.

    Raises: UserError for what can be no run's name.
    """
    if "\0" in name or (name in (".", "..") and not RunLayout(Path(name)).hparams.is_file()):
        raise UserError(f"{name!r} is no name for a run. A bare name is a folder in {RUNS}/, anything with a / a path.")
    folder = spelled(name) if "/" in name or name in (".", "..") else RUNS / name
    if not name.strip() or ("@" in folder.name and not folder.is_dir()):
        raise UserError(f"{name!r} is no name for a run; RUN@N names a version, not a run.")
    if not folder.is_absolute():
        here()  # says so where there is none
    return folder


def split_spec(spec: str) -> tuple[str, str | None]:
    """RUN@N -> (RUN, N); RUN -> (RUN, None). What is there as a whole is taken whole: names and folders may have an @.

    Raises: UserError for a home that nobody knows.
    """
    name, at, version = spec.rpartition("@")
    is_whole = not at or _is_run(spec) or ("/" in spec and spelled(spec).is_dir())
    if is_whole or ("/" in version and not _is_run(name)):
        return spec, None
    return name, version


def _is_run(name: str) -> bool:
    folder = spelled(name) if "/" in name else RUNS / name
    try:
        return bool(name) and RunLayout(folder).hparams.is_file()
    except OSError:
        return False


def identity_of(root: Path) -> str:
    """Empty where the run has none."""
    try:
        return RunLayout(root).identity.read_text()
    except OSError:
        return ""


def version_number(name: str) -> int | None:
    """12 for "version_12", None for every other name."""
    match = VERSION_NAME.fullmatch(name)
    return int(match[1]) if match else None


def claimed_number(name: str) -> int | None:
    """The number that a set-aside or discarded version had: 12 for "version_12" and "version_12-20260102T030405"."""
    match = NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def is_unmade(name: str, run_name: str | None = None) -> bool:
    """Whether a folder of this name is a run, or that run, that is still being made, or was cut off."""
    match = UNMADE_NAME.fullmatch(name)
    return match is not None and run_name in (None, match[1])


def new_planned(parent: Path, run_name: str) -> Path:
    """A folder for a run that is made only for a while; it lies in there under its own name."""
    return parent / f".{run_name}.{secrets.token_hex(4)}.plan"


def is_planned(name: str) -> bool:
    """Whether a folder of this name was made only for a while: nothing in it is anybody's."""
    return PLANNED_NAME.fullmatch(name) is not None


def is_staging(name: str) -> bool:
    return STAGING_NAME.fullmatch(name) is not None
