"""Amounts in words for people: bytes and seconds. Knows nothing of what was counted."""

UNITS = ("B", "kB", "MB", "GB", "TB")


def size(size_bytes: float) -> str:
    """1_230_000 -> 1.2 MB; units of a thousand, as disks are sold."""
    for unit in UNITS:
        if size_bytes < 1000 or unit == UNITS[-1]:
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """42 s, 3 min 20 s, 2 h 05 min."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def about(seconds: float) -> str:
    """42 s, 12 min, 1.5 h, 30 days: as one says it who does not count."""
    for unit, length_s, least in (("days", 86_400, 2), ("h", 3600, 1.6), ("min", 60, 1.6)):
        if seconds >= least * length_s:
            return f"{_rounded(seconds / length_s)} {unit}"
    return f"{_rounded(seconds)} s"


def _rounded(number: float) -> str:
    return f"{number:.0f}" if number >= 9.95 else f"{number:.1f}".removesuffix(".0")
