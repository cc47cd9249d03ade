"""What a place offers: versions whose manifest is there and whole. Reads there, and writes nothing."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from everstep.errors import DamageFound
from everstep.mirror.backend import Place, sending
from everstep.mirror.rate import UNLIMITED, Rate
from everstep.versions import manifest
from everstep.versions.digests import digest
from everstep.versions.layout import DIGESTS, MANIFEST, TRAINING, version_number
from everstep.versions.passing import Passing
from everstep.versions.verify import Fault

READERS = 8  # small files asked for at once: each is a journey


@dataclass(frozen=True, slots=True)
class Offered:
    """A version as a place offers it."""

    number: int
    manifest: Mapping[str, Any] = field(repr=False)

    @property
    def digest(self) -> str:
        return str(self.manifest["digest"])

    @property
    def files(self) -> dict[str, Any]:
        return dict(self.manifest["files"])


@dataclass(frozen=True, slots=True)
class Offer:
    """All that a place holds of a run."""

    whole: dict[int, Offered]
    damaged: dict[int, str]  # manifests that cannot be read, with why
    unfinished: tuple[int, ...]  # without any


def offer(place: Place) -> Offer:
    """Read every manifest there. Raises: as `sending`."""
    with sending(place):
        numbers = sorted(number for name in place.names() if (number := version_number(name)) is not None)
        with ThreadPoolExecutor(READERS, "everstep-mirror") as readers:
            contents = list(readers.map(lambda number: place.read(f"version_{number}/{MANIFEST}"), numbers))
    whole, damaged, unfinished = dict[int, Offered](), dict[int, str](), list[int]()
    for number, content in zip(numbers, contents, strict=True):
        if content is None:
            unfinished.append(number)
            continue
        try:
            read = manifest.decode(content)
            if read["version"] != number:
                raise DamageFound(f"holds the manifest of version_{read['version']}")
            whole[number] = Offered(number, read)
        except DamageFound as damage:
            damaged[number] = str(damage)
    return Offer(whole, damaged, tuple(unfinished))


def versions_in(place: Place) -> dict[int, str]:
    """Numbers of versions that are offered, with their manifests' digests."""
    return {number: offered.digest for number, offered in offer(place).whole.items()}


def is_resumable(place: Place, offered: Offered) -> bool:
    """Whether what only a resume needs is there too. Raises: as `sending`."""
    with sending(place):
        there = place.files(f"version_{offered.number}")
    return all(path in there for path in offered.files if path.startswith(f"{TRAINING}/"))


def faults_in(place: Place, offered: Offered, rate: Rate = UNLIMITED) -> list[Fault]:
    """Read a copy whole and compare every digest. Raises: as `sending`."""
    found = list[Fault]()
    with sending(place):
        digests = digests_in(place, offered)
        folder = f"version_{offered.number}"
        is_slim = not place.names(f"{folder}/{TRAINING}")
        for path, entry in offered.files.items():
            if is_slim and path.startswith(f"{TRAINING}/"):
                continue
            found += file_faults(place, f"{folder}/{path}", Passing(path, entry, digests.get(path, {})), rate)
    return found


def digests_in(place: Place, offered: Offered) -> dict[str, dict[str, str]]:
    """Every tensor's digest, by file and name; empty where they are not those that were committed."""
    content = place.read(f"version_{offered.number}/{DIGESTS}")
    if content is None or digest(content) != offered.files[DIGESTS]["digest"]:
        return {}  # said where its turn comes
    return dict(json.loads(content))


def file_faults(place: Place, name: str, check: Passing, rate: Rate) -> list[Fault]:
    """Read one file back. Raises: OSError."""
    size = place.size(name)
    if size is None:
        return [Fault(check.path, None, "is missing")]
    for piece in rate.pieces(place.stream(name, size)):
        check.feed(piece)
    return check.end()
