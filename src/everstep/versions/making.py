"""How a run's folder is made: whole under its name at once, or not at all."""

import contextlib
import errno
import fcntl
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from everstep.errors import DiskFull, UserError
from everstep.places import as_text, shortened, told
from everstep.versions import fsops
from everstep.versions.layout import RunLayout, is_unmade
from everstep.versions.lock import folder_lock
from everstep.versions.readme import About, readme

TRIES = 5
# What a trainer may have opened before it came to a version.
RECORD_NAME = re.compile(r"stacks\.txt|live\.json|metrics\.jsonl|events\.out\.tfevents\..*|\..*\.new")
TAKEN = (errno.EEXIST, errno.ENOTEMPTY)


def make_run(root: Path, hparams_yaml: str, about: About) -> None:
    """Make a run's folder, and the folders above it that are missing. Of several that would, one does.

    Raises: UserError if something is there, or the disk refuses; DiskFull. Nothing new is left then.
    Crash: nothing; or a hidden folder beside it, which the next one of this name removes; or the run. In an empty
        folder that was there before, some of its files, but no hparams.yaml: the next one goes on from there.
    """
    as_text(Path(root.name), "The run")
    parents: list[Path] = []
    try:
        if root.exists():
            _make_inside(root, hparams_yaml, about)
        else:
            _make_parents(root.parent, parents)
            _make_beside(root, hparams_yaml, about)
    except BaseException as error:
        for folder in reversed(parents):
            with contextlib.suppress(OSError):  # somebody else has put something there
                folder.rmdir()
        if isinstance(error, OSError):
            kind = DiskFull if error.errno in fsops.NO_ROOM else UserError
            if isinstance(error, NotADirectoryError):
                file = next(folder for folder in root.parents if folder.exists())
                raise UserError(
                    f"{file} is a file, not a folder. Nothing was changed; --run takes another name."
                ) from None
            is_made = RunLayout(root).hparams.is_file()
            left = "It is whole and can be gone on with" if is_made else "Nothing was left behind"
            raise kind(
                f"{shortened(root)} cannot be {'flushed' if is_made else 'made'}: {told(error)}. {left}."
            ) from error
        raise


def unmake_run(root: Path, made: Sequence[Path]) -> bool:
    """Take a run back in which nothing was ever trained; its lock has to be held. Returns whether it was.

    It stays as it is where anything lies in it that Everstep did not put there.

    Args:
        made: the folders that were made for it, the run's own among them or not; those above go if they are empty.

    Crash: the run; or a hidden folder beside its place, which the next one of this name removes.
    """
    if not _holds_nothing(RunLayout(root)):
        return False
    if root in made:
        # It vanishes at once: nobody meets a run of which half is there. Locked, so that nobody clears it meanwhile.
        with folder_lock(root, fcntl.LOCK_EX | fcntl.LOCK_NB):
            hidden = root.with_name(f".{root.name}.{secrets.token_hex(4)}.new")
            fsops.rename(root, hidden)
            fsops.remove_tree(hidden)
    else:
        for entry in root.iterdir():
            (fsops.remove_tree if entry.is_dir() else fsops.remove_file)(entry)
    for folder in sorted(set(made) - {root}, key=lambda folder: len(folder.parts), reverse=True):
        with contextlib.suppress(OSError):  # somebody else has put something there
            folder.rmdir()
    return True


def _holds_nothing(layout: RunLayout) -> bool:
    """Whether all that is there was made with the run, or by a trainer that came to no version."""
    ours = {layout.identity, layout.readme, layout.best_score, layout.hparams, layout.lock, layout.prune_lock}
    for entry in layout.root.iterdir():
        if entry == layout.records:
            inside = [path for path in entry.rglob("*") if path != entry / "tensorboard"]
            if not all(path.is_file() and RECORD_NAME.fullmatch(path.name) for path in inside):
                return False
        elif entry in (layout.trash, layout.requests):
            if entry.is_dir() and any(entry.iterdir()):
                return False
        elif entry not in ours and not _is_cut_off(entry):
            return False
    return True


def _make_parents(parent: Path, made: list[Path]) -> None:
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another one was quicker
            fsops.make_folder(folder)
            made.append(folder)
        fsops.flush_folder(folder.parent)


def _make_beside(root: Path, hparams_yaml: str, about: About) -> None:
    with making_beside(root) as staging:
        _write(RunLayout(staging), root.name, hparams_yaml, about)


@contextmanager
def making_beside(root: Path) -> Iterator[Path]:
    """Yields a folder that gets this name, whole, when what is inside is done. Its parent has to be there.

    Raises: UserError if something came to be under the name meanwhile; OSError.
    Crash: as make_run.
    """
    _clear_leftovers(root)
    with ExitStack() as held:
        staging = _new_staging(root, held)
        try:
            yield staging
            fsops.rename(staging, root)  # over an empty folder at most
        except BaseException as error:
            with contextlib.suppress(OSError):  # the next one of this name removes it
                staging.chmod(0o700)  # a mask may have closed it to ourselves
                fsops.remove_tree(staging)
            if isinstance(error, OSError) and error.errno in TAKEN:
                raise _refusal(root) from None
            raise
        fsops.flush_folder(root.parent)


def _new_staging(root: Path, held: ExitStack) -> Path:
    """A folder of its own beside the run's, locked as long as it is worked on, so that nobody clears it away."""
    for _ in range(TRIES):
        staging = root.with_name(f".{root.name}.{secrets.token_hex(4)}.new")
        fsops.make_folder(staging)
        with contextlib.suppress(FileNotFoundError):  # it was cleared away before it was locked
            held.enter_context(folder_lock(staging, fcntl.LOCK_EX))
            return staging
    raise FileNotFoundError(errno.ENOENT, "its folder is removed again and again", str(root))


def _clear_leftovers(root: Path) -> None:
    for beside in root.parent.iterdir():
        if is_unmade(beside.name, root.name):
            with contextlib.suppress(FileNotFoundError), folder_lock(beside, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
                if is_free:
                    fsops.remove_tree(beside)


def _make_inside(root: Path, hparams_yaml: str, about: About) -> None:
    """In a folder that somebody made for it, and may have mounted there or given rights of its own."""
    if not root.is_dir():
        raise UserError(f"{root} is a file, not a folder. Nothing was changed; --run takes another name.")
    with folder_lock(root, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_free:
        if not is_free or not _is_bare(root):
            raise _refusal(root)
        try:
            _write(RunLayout(root), root.name, hparams_yaml, about)
        except BaseException:
            _clear_inside(root)
            raise


def _is_bare(root: Path) -> bool:
    """Whether nothing is there but what a making that was cut off leaves."""
    layout = RunLayout(root)
    ours = {layout.identity, layout.readme, layout.best_score}
    return all(
        entry in ours or _is_cut_off(entry) or (entry in (layout.records, layout.trash) and not any(entry.iterdir()))
        for entry in root.iterdir()
    )


def _is_cut_off(entry: Path) -> bool:
    return entry.name.startswith(".") and entry.name.endswith(".new")


def _clear_inside(root: Path) -> None:
    layout = RunLayout(root)
    with contextlib.suppress(OSError):
        for path in (
            layout.hparams,
            layout.identity,
            layout.readme,
            layout.best_score,
            *filter(_is_cut_off, root.iterdir()),
        ):
            fsops.remove_file(path)
        for folder in (layout.records, layout.trash):
            if folder.exists():
                fsops.remove_tree(folder)


def _write(layout: RunLayout, name: str, hparams_yaml: str, about: About) -> None:
    """hparams.yaml comes last: with it, the run begins to exist."""
    fsops.replace_file(layout.identity, secrets.token_hex(8).encode())
    fsops.ensure_folder(layout.records)
    fsops.ensure_folder(layout.trash)  # now, since a full disk may refuse it when it is needed
    fsops.replace_file(layout.readme, readme(name, about).encode())
    fsops.replace_file(layout.best_score, about.best_score.encode())
    fsops.replace_file(layout.hparams, hparams_yaml.encode())


def _refusal(root: Path) -> UserError:
    if RunLayout(root).hparams.is_file():
        return UserError(f"{root} is a run already. Nothing was changed; it can be gone on with.")
    if root.is_dir() and _is_bare(root):
        return UserError(f"{root} is being made by another process. Nothing was changed.")
    return UserError(f"{root} is not empty, but no run either. Nothing was changed; --run takes another name.")
