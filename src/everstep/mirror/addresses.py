"""Which place somebody's words name: a folder, or an address. Loads no library that only an address needs before it is
asked for something.

An address holds nothing secret: it is written into settings, records and logs.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from everstep.errors import UserError
from everstep.mirror.backend import Place, library
from everstep.mirror.folder import Folder
from everstep.places import spelled

SCHEMES = {"s3": ("obstore", "S3"), "sftp": ("paramiko", "SFTP"), "hf": ("huggingface_hub", "The hub")}
QUERY = {"s3": ("endpoint", "region"), "sftp": (), "hf": ()}
SECRET = re.compile(r"(?i)secret|token|passw|credential|access.?key|session|signature|auth")
KEPT_IN = {
    "s3": "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), where every process of this user finds it",
    "sftp": "a key of SSH: ssh-agent, ~/.ssh/config",
    "hf": "hf auth login",
}
FORMS = "a folder, s3://BUCKET/PATH, sftp://USER@HOST/PATH or hf://OWNER/NAME"


@dataclass(frozen=True, slots=True)
class Address:
    """An address taken apart. path: without slashes at its ends, but for the first of an absolute one."""

    scheme: str
    host: str  # the bucket, the machine, or the owner
    path: str
    user: str | None = None
    port: int | None = None
    query: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        at = f"{quote(self.user)}@" if self.user else ""
        port = f":{self.port}" if self.port else ""
        asked = "&".join(f"{key}={quote(value, safe=':/')}" for key, value in self.query)
        path = self.path.replace("%", "%25").replace("?", "%3F").replace("#", "%23")  # the rest stays as it is read
        return f"{self.scheme}://{at}{self.host}{port}/{path.lstrip('/')}{'?' if asked else ''}{asked}"

    @property
    def name(self) -> str:
        """Of the run, where it is the address of one's copies."""
        return self.path.rpartition("/")[2]

    @property
    def options(self) -> Mapping[str, str]:
        return dict(self.query)

    def child(self, name: str) -> "Address":
        return replace(self, path=f"{self.path}/{name}" if self.path else name)


def is_address(words: str) -> bool:
    return "://" in words


def parse(words: str) -> Address:
    """Raises: UserError where it is no address of a kind that is known, or holds what must be kept elsewhere."""
    scheme = words.partition("://")[0]
    if scheme not in SCHEMES:
        raise UserError(f"{scheme}:// is no place for copies; they go to {FORMS}. Nothing was changed.")
    try:
        parts = urlsplit(words)
        port = parts.port
    except ValueError as error:
        raise UserError(f"{scheme}:// is followed by no address ({error}). Nothing was changed.") from None
    query = tuple(parse_qsl(parts.query, keep_blank_values=True))
    if parts.password is not None or any(SECRET.search(key) for key, _ in query):
        raise UserError(
            f"An address must hold nothing secret, since it is written into settings and logs, and this {scheme}:// "
            f"address does. Nothing was changed. What is secret belongs into {KEPT_IN[scheme]}."
        )
    unknown = [key for key, _ in query if key not in QUERY[scheme]]
    if unknown or parts.fragment or not parts.hostname or (parts.username and scheme != "sftp"):
        known = f"; after a ? it may have {' and '.join(QUERY[scheme])}" if QUERY[scheme] else ""
        raise UserError(f"{words} is not understood: copies go to {FORMS}{known}. Nothing was changed.")
    host = parts.netloc.rpartition("@")[2].partition(":")[0]  # as it is written: an owner's name has capitals
    path = unquote(parts.path).strip("/")
    return Address(scheme, host, path, parts.username, port, query)


def place_of(target: str, run_name: str) -> Place:
    """Where a run's copies lie in a target. Raises: UserError; nothing is asked over a network."""
    if is_address(target):
        return _reached(parse(target).child(run_name))
    return Folder(spelled(target).absolute() / run_name)


def place_at(mirror: str) -> Place:
    """The place of one run's copies, TARGET/RUN. Raises: UserError; nothing is asked over a network."""
    return _reached(parse(mirror)) if is_address(mirror) else Folder(spelled(mirror).absolute())


def target_of(mirror: str) -> str:
    """TARGET of TARGET/RUN."""
    if not is_address(mirror):
        return str(spelled(mirror).absolute().parent)
    address = parse(mirror)
    return str(replace(address, path=address.path.rpartition("/")[0]))


def meeting_place(targets: Sequence[str]) -> str | None:
    """The one in which machines meet that share no folder; None where none is fit for it: the hub makes a commit of
    every word.
    """
    fit = [target for target in targets if not target.startswith("hf://")]
    if not fit or is_address(fit[0]):
        return fit[0] if fit else None
    return str(spelled(fit[0]).absolute())


def name_at(mirror: str) -> str:
    """What the run is called."""
    return parse(mirror).name if is_address(mirror) else spelled(mirror).absolute().name


def address_of(target: str, run_name: str) -> str:
    """`place_of(...).address`, with no library loaded."""
    if is_address(target):
        return str(parse(target).child(run_name))
    return str(spelled(target).absolute() / run_name)


def check(target: str) -> None:
    """Raises: UserError where it can never be sent to: it is no address, or its library is not there."""
    if is_address(target):
        _reached(parse(target))


def _reached(address: Address) -> Place:
    name, told = SCHEMES[address.scheme]
    library(name, f"{told} as a mirror")
    if address.scheme == "s3":
        from everstep.mirror.s3 import S3

        return S3(address)
    if address.scheme == "sftp":
        library("fsspec", f"{told} as a mirror")
        from everstep.mirror.sftp import SFTP

        return SFTP(address)
    from everstep.mirror.hub import Hub

    return Hub(address)
