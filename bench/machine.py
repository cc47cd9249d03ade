"""What the figures were measured on, and where they are written down."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"


def machine() -> str:
    """One line: date, processor, cores, memory, versions."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    processor = names[0].partition(":")[2].strip() if names else platform.processor()
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {processor}, {gigabytes:.0f} GiB, "
        f"Python {platform.python_version()}, torch {version('torch')}, diffusers {version('diffusers')}"
    )


def record(section: str, text: str) -> None:
    """Replace a section of RESULTS.md by what was measured now, and print it."""
    print(text)
    header = "# Measured\n\nWritten by the scripts in `bench/`. Ratios are taken within one run; machines differ.\n"
    parts = (RESULTS.read_text() if RESULTS.exists() else header).split("\n## ")
    kept = [part for part in parts[1:] if not part.startswith(f"{section}\n")]
    kept.append(f"{section}\n\n{machine()}\n\n{text.strip()}\n")
    RESULTS.write_text("\n## ".join([parts[0].rstrip() + "\n", *sorted(kept)]))
