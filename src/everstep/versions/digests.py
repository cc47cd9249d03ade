"""Digests: xxh3-128, fast enough to be taken of every byte, and written with its name."""

from collections.abc import Iterable

import xxhash

ALGORITHM = "xxh3-128"


def digest(content: bytes | memoryview) -> str:
    """Of one piece, as "xxh3-128:<32 hex digits>"."""
    return f"{ALGORITHM}:{xxhash.xxh3_128_hexdigest(content)}"


def digest_of(pieces: Iterable[bytes | memoryview]) -> str:
    """Of several pieces as if they were one."""
    total = xxhash.xxh3_128()
    for piece in pieces:
        total.update(piece)
    return f"{ALGORITHM}:{total.hexdigest()}"
