"""The page of one run as one HTML file that needs no server: scripts, numbers and pictures are in it."""

import base64
import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from everstep.contracts import Counted
from everstep.errors import UserError
from everstep.records.sheets import sheet_path
from everstep.records.tried import CONDITION, list_tried, tried_picture
from everstep.versions import Run, Version
from everstep.watching.pictures import as_address, pictures_on, sheet_of
from everstep.watching.remembered import RememberedRun
from everstep.watching.sending import encoded, packed
from everstep.watching.views import log_of, version_of, whole

PAGE = Path(str(files("everstep"))) / "watching" / "page"
SCRIPTS, STYLES = ("source.js", "uplot.js", "curves.js", "trying.js", "page.js"), ("uplot.css", "page.css")


def report(run: RememberedRun, said: Counted = lambda done, total: None, compared: str | None = None) -> str:
    """As HTML. A picture that several versions share, as conditions and targets, is in it once.

    Args:
        said: told of versions.
        compared: a page of versions side by side, which becomes a part of it.

    Raises: UserError if the run has no version.
    """
    versions = run.versions()
    if not versions:
        raise UserError(f"{run.name} has no version yet, so there is nothing to report.")
    pictures: dict[str, str] = {}
    known: dict[bytes, str] = {}
    for done, version in enumerate(versions, start=1):
        pictures |= _pictures(run, version, known)
        said(done, len(versions))
    told = {
        "run": packed(whole(run)),
        "versions": {version.number: version_of(run, version.number) for version in versions},
        "log": log_of(run),
        "pictures": pictures,
        "compared": compared,
        "tried": list_tried(run),
        "tried_pictures": _tried(run),
    }
    page = (PAGE / "index.html").read_text(encoding="utf-8")
    for name in STYLES:
        page = page.replace(f'<link rel="stylesheet" href="page/{name}">', f"<style>{_text(name)}</style>")
    for name in SCRIPTS:
        page = page.replace(f'<script src="page/{name}"></script>', f"<script>{_text(name)}</script>")
    return page.replace(
        "<script>", f'<script type="application/json" id="report">{_inside(told)}</script>\n<script>', 1
    )


def _pictures(run: Run, version: Version, known: dict[bytes, str]) -> dict[str, str]:
    """By version, row and pair: as a data address, or as "=" and the name of the picture that it is the same as."""
    facts, found = sheet_of(run, version), {}
    if facts is None:
        return {}
    for row, pictures in pictures_on(sheet_path(run, version.number), len(facts.captions)).items():
        for pair, content in enumerate(pictures):
            digest, name = hashlib.sha256(content).digest(), f"{version.number}/{row}/{pair}"
            if digest in known:
                found[name] = f"={known[digest]}"
            else:
                known[digest] = name
                found[name] = as_address(content)
    return found


def _tried(run: RememberedRun) -> dict[str, str]:
    """Of what was drawn to try versions and kept, by name and version, or "condition": as data addresses."""
    found = {}
    for facts in list_tried(run):
        for number in (None, *facts["versions"]):
            content = tried_picture(run, facts["name"], number)
            if content is not None:
                key = f"{facts['name']}/{CONDITION if number is None else number}"
                found[key] = f"data:image/png;base64,{base64.b64encode(content).decode()}"
    return found


def _text(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _inside(told: Any) -> str:
    """JSON that no text in it can end: a label may well be a piece of HTML."""
    return encoded(told).decode().replace("<", "\\u003c")
