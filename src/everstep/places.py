"""Where a person's words point to on a machine that may lack a home, a current folder, or the right to write.

Owns how such words become paths, and what is said where they lead nowhere. Knows nothing of what lies there.
"""

import errno
import os
import shlex
from pathlib import Path

from everstep.errors import DiskFull, EverstepError, NotCommitted, UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Said of a place, or of what this process may do there; every other error of the system may be a fault of ours.
OF_A_PLACE = (*NO_ROOM, *FORBIDDEN, errno.EIO, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE)
SHOWN_LETTERS = 60


def spelled(words: str) -> Path:
    """The path that somebody wrote, ~ for a home included. Raises: UserError where nobody knows that home."""
    try:
        return Path(words).expanduser()
    except RuntimeError:
        whose = words.split("/")[0]
        raise UserError(
            f"{words}: this machine knows no home folder for {whose}. Nothing was changed; a whole path needs none."
        ) from None


def here() -> Path:
    """The current folder. Raises: UserError where it was removed, or may not be looked at."""
    try:
        return Path.cwd()
    except OSError as error:
        raise UserError(
            f"The current folder cannot be told ({error.strerror}): it was removed, or is closed to this user. "
            "Nothing was changed; cd to another folder first."
        ) from None


def absolute(path: Path) -> Path:
    """The same path from the root, links followed. Raises: UserError where it cannot be told."""
    try:
        return (path if path.is_absolute() else here() / path).resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise UserError(f"{shortened(path)} cannot be followed ({told(error)}). Nothing was changed.") from None


def as_text(path: Path, what: str) -> str:
    """A path that goes into files of text. Raises: UserError where its name is none."""
    text = str(path)
    if _is_text(text):
        return text
    raise UserError(
        f"{what} {text!a} has a name that is no text in this locale (no UTF-8). Nothing was started; another "
        "name will do."
    )


def cache_folder() -> Path | None:
    """Where the user's programs remember what can be had again; None where the machine has no such place."""
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(named) if named else Path.home() / ".cache"
    except RuntimeError:
        return None


def as_word(path: Path | str) -> str:
    """As it is typed in a shell, so that a command that is printed can be copied."""
    word = str(path)
    return shlex.quote(f"./{word}" if word.startswith("-") else word)


def refused(error: OSError) -> EverstepError | None:
    """What a person is told where a place refused something; None for errors that are no place's."""
    if error.errno not in OF_A_PLACE:
        return None
    at = f"{shortened(error.filename)}: " if error.filename else ""
    rest = "What was committed before is whole."
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return NotCommitted(f"{at}too many files are open at once here; ulimit -n 1024 allows more. {rest}")
    kind = DiskFull if error.errno in NO_ROOM else NotCommitted
    return kind(f"{at}{told(error)}. {rest}")


def told(error: BaseException) -> str:
    """What the system said, without number and name."""
    return getattr(error, "strerror", None) or str(error)


def shortened(path: object) -> str:
    """A path as it is shown: a name of thousands of letters says no more than its beginning and its end."""
    text = os.fsdecode(path) if isinstance(path, (bytes, os.PathLike)) else str(path)
    if len(text) <= 4 * SHOWN_LETTERS:
        return text
    return f"{text[:SHOWN_LETTERS]}...{text[-SHOWN_LETTERS:]} ({len(os.fsencode(text)):,} bytes)"


def refuse_unwritable(flag: str, path: Path, undone: str = "Nothing was drawn.") -> Path:
    """Raises: UserError before any work is done, if no file can be made there."""
    where = f"{flag} {shortened(path)}"
    folder = path if path.is_absolute() else here() / path
    try:
        if not folder.parent.is_dir():
            raise UserError(f"{where}: there is no folder {path.parent}. {undone}")
        if folder.is_dir():
            raise UserError(f"{where} is a folder; a name of a file in it is wanted. {undone}")
        os.lstat(folder)  # says whether the name is too long
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UserError(f"{where}: {told(error)}. {undone}") from None
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise UserError(f"{where}: {folder.parent} cannot be written to. {undone} {flag} names another place.")
    return path


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
