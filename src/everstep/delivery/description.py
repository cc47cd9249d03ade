"""What an exported file is called and says of itself, told from the version alone. Never imports torch."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from everstep import __version__
from everstep.errors import UserError
from everstep.exchange.architecture import kind_of
from everstep.exchange.keys import Layout, Plan
from everstep.exchange.readers import CONDITIONS
from everstep.versions import Version

SUFFIX = ".safetensors"
WORD = re.compile(r"[a-z0-9][a-z0-9_-]*")


def condition_of(version: Version, asked: str | None) -> str | None:
    """The kind of condition in the word that readers go by; None where nothing tells it. Raises: UserError."""
    if asked is not None:
        if WORD.fullmatch(asked) is None:
            raise UserError(f"--condition {asked[:60]}: one word in small letters, as canny or depth. "
                            "Nothing was written.")  # fmt: skip
        return asked
    measured = version.manifest.get("config", {}).get("scoring", {}).get("adherence")
    return measured if measured in CONDITIONS else None


def file_name(version: Version, plan: Plan, condition: str | None) -> str:
    """RUN_CONDITION_FAMILY_vN, without a suffix."""
    family = kind_of(plan) or str(version.manifest.get("base", {}).get("family", "controlnet"))
    parts = (version.path.parent.name, condition, family, f"v{version.number}")
    return "_".join(part for part in parts if part)


def metadata_of(
    version: Version, plan: Plan, layout: Layout, condition: str | None, is_averaged: bool, licence: str | None
) -> dict[str, str]:
    """What stands in the file's header. What the version does not say is left out."""
    base: Mapping[str, Any] = version.manifest.get("base", {})
    told = {
        "family": kind_of(plan) or base.get("family"),
        "base": _plain_name(base.get("name")),
        "base_digest": base.get("digest"),
        "prediction_type": base.get("prediction_type"),
        "run": version.path.parent.name,
        "version": version.number,
        "step": version.step,
        "images_seen": version.images_seen,
        "weights": "averaged" if is_averaged else "as trained",
        "condition": condition,
        "condition_range": version.manifest.get("inputs", {}).get("condition_range"),
        "licence": licence,
        "layout": layout.name,
        "program": f"everstep {__version__}",
    }
    said = {key: value for key, value in told.items() if value is not None}
    words = {key: value if isinstance(value, str) else json.dumps(value) for key, value in said.items()}
    return {"format": "pt", **{f"everstep.{key}": value for key, value in words.items()}}


def _plain_name(name: object) -> object:
    """A folder of this machine says nothing elsewhere, and may say more than its owner likes: its last part is kept."""
    return Path(name).name if isinstance(name, str) and Path(name).is_absolute() else name
