"""What the page and the report show, as JSON: all runs of a folder at a glance, and one run whole."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from everstep.errors import EverstepError
from everstep.exchange.readers import READERS
from everstep.records.scores import FILE as SCORES
from everstep.records.scores import Scored, read_scores
from everstep.records.sheets import sheet_path
from everstep.records.steps import FILE as METRICS
from everstep.records.verdict import Point, verdict
from everstep.versions import Annotation, Version, row
from everstep.versions.layout import HPARAMS
from everstep.watching.curves import loss_curve
from everstep.watching.pictures import drawing, sheet_of
from everstep.watching.remembered import RememberedRun, stamp_of, stamps_in
from everstep.watching.standing import settings_kept, standing

CARD_POINTS = 60
DAMAGE_S = 30.0  # what was found broken is looked for so often
CURVE_SHARE, SMALL_SHARE = 0.05, 0.002  # of one core, that a run's curve may take, and its small one
LOG_LINES = 200
HANGS_S = 120.0  # a running training tells where it is twice a second, but for its first step and its scores


def folders_below(folder: Path) -> list[Path]:
    """Of all runs in a folder, or the one that it is itself, the newest first."""
    if RememberedRun.exists(folder):
        return [folder]
    return sorted((entry for entry in _entries(folder) if RememberedRun.exists(entry)), key=_touched, reverse=True)


def card(run: RememberedRun) -> dict[str, Any]:
    """One run at a glance."""
    try:
        told = now(run)
    except EverstepError as error:
        return {"name": run.name, "error": str(error)}
    written = stamp_of(run.layout.records / METRICS)
    curve = run.once("small curve", written, lambda: loss_curve(run.layout.records, CARD_POINTS), share=SMALL_SHARE)
    return {
        "name": run.name,
        **told,
        "condition": _condition(told),
        "curve": {"step": curve["step"], "loss": curve["loss"]},
    }


def _condition(told: Mapping[str, Any]) -> str:
    """Its state in a word that a person acts on."""
    age = told["told_age_s"]
    if told["state"] == "running" and age is not None and age > HANGS_S:
        return "hangs"
    if told["state"] == "running" and told["disk_full_after_versions"] == 0:
        return "disk full"
    return str(told["state"])


def now(run: RememberedRun) -> dict[str, Any]:
    """Where a run stands: of all that is shown, what changes while nothing is committed."""
    told = standing(run).as_json()
    return {**told, "condition": _condition(told)}


def whole(run: RememberedRun) -> dict[str, Any]:
    """One run, with all that the page shows of it but pictures."""
    return {**lasting(run), "standing": now(run)}


def lasting(run: RememberedRun) -> dict[str, Any]:
    """The same but for where it stands, which is another at any moment."""
    versions = run.versions()
    measured, written = stamp_of(run.layout.records / SCORES), stamp_of(run.layout.records / METRICS)
    drawn, captions = _sheets(run, versions)
    return {
        "name": run.name,
        "path": str(run.path),
        "versions": _versions(run, versions),
        "damaged": run.once("damaged", stamp_of(run.path, run.layout.quarantine), lambda: _damaged(run), DAMAGE_S),
        **run.once("scores", measured, lambda: _scores(run)),
        "curve": run.once("curve", written, lambda: loss_curve(run.layout.records), share=CURVE_SHARE),
        "settings": _text(run.layout.hparams),
        "drawing": _drawing(run),
        "programs": list(READERS),
        "sheets": drawn,
        "captions": captions,
    }


def _versions(run: RememberedRun, versions: list[Version]) -> list[dict[str, Any]]:
    """Nearly as `everstep list --json` has them. A folder's own stamp tells when it was made slim."""
    stamps, rows = run.stamps(), []
    for version in versions:
        note = run.annotation(version.number)
        stamp = (stamps.get(version.number), version, note)
        rows.append(run.once(f"row {version.number}", stamp, partial(_version, version, note)))
    return rows


def _version(version: Version, note: Annotation) -> dict[str, Any]:
    told = {**row(version, note), "created_at": version.created_at, "note": note.note}
    del told["path"]  # the run's, and its name
    return told


def _scores(run: RememberedRun) -> dict[str, Any]:
    """What was measured, in the order of steps, of versions that are gone too; and where the jump is."""
    measured = sorted(read_scores(run).values(), key=lambda one: (one.step, one.version))
    points = [Point(one.version, one.step, one.gain) for one in measured if one.gain is not None]
    found = asdict(verdict(points, 1))
    return {
        "scores": [_scored(one) for one in measured],
        "jump": {key: found[key] for key in ("before", "after", "best")},
    }


def _scored(scored: Scored) -> dict[str, Any]:
    told, gain = {"version": scored.version, "step": scored.step, "images_seen": scored.images_seen}, scored.gain
    has_benefit = gain is not None and gain.benefit is not None
    return {
        **told,
        "gain": None if gain is None else shown_as(gain.value, gain.low, gain.high),
        "benefit": shown_as(gain.benefit, gain.benefit_low, gain.benefit_high) if gain and has_benefit else None,
    }


def shown_as(*values: float | None) -> list[float | None]:
    """To as many places as a curve can show."""
    return [None if value is None else round(value, 6) for value in values]


def _sheets(run: RememberedRun, versions: list[Version]) -> tuple[dict[int, tuple[int, str]], list[list[str]]]:
    """By version, of those that have a contact sheet: which captions, and which drawing of it; and all captions there
    are, each list of them once.
    """
    places: dict[tuple[str, ...], int] = {}
    sheets, stamps = {}, stamps_in(run.layout.samples)
    for version in versions:
        drawn = stamps.get(f"version_{version.number}.png")
        found = drawn and run.once(f"sheet {version.number}", (drawn, version), partial(_sheet, run, version))
        if found:
            words, name = found
            sheets[version.number] = (places.setdefault(words, len(places)), name)
    return sheets, [list(words) for words in places]


def _sheet(run: RememberedRun, version: Version) -> tuple[tuple[str, ...], str] | None:
    facts = sheet_of(run, version)
    return None if facts is None else (tuple(facts.captions), drawing(sheet_path(run, version.number)))


def _drawing(run: RememberedRun) -> dict[str, Any] | None:
    """How its pictures are drawn, for who would try a version; None of a loop that is not ours."""
    settings = settings_kept(run)
    if settings is None:
        return None
    return {**settings.sampling.model_dump(mode="json"), "makes_conditions": settings.data.condition != "file"}


def _damaged(run: RememberedRun) -> list[dict[str, Any]]:
    """Versions that were found broken, by what their folders are called, and where they are now."""
    found = [{"name": path.name, "why": why} for path, why in run.damaged()]
    return found + [{"name": path.name, "why": "set aside"} for path in _entries(run.layout.quarantine)]


def log_of(run: RememberedRun, most: int = LOG_LINES) -> list[dict[str, Any]]:
    """The newest lines of its log, oldest first."""
    found = []
    for line in _text(run.layout.log).splitlines()[-most:]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _entries(folder: Path) -> Iterator[Path]:
    try:
        yield from (entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return


def _touched(folder: Path) -> float:
    """When something was last written there."""
    times = [0.0]
    for path in (folder, folder / "records", folder / "records/live.json"):
        try:
            times.append(path.stat().st_mtime)
        except OSError:
            continue
    return max(times)


def version_of(run: RememberedRun, number: int) -> dict[str, Any]:
    """One version: its manifest, its settings, and how a program loads it. Raises: UserError."""
    version = run.find(str(number))
    return {
        "manifest": version.manifest,
        "settings": _text(version.path / HPARAMS),
        "load": loading(version),
    }


def loading(version: Version) -> str:
    """Lines of Python that load it, where diffusers can as it stands; else where its weights are."""
    folder = version.path / "controlnet"
    if (folder / "config.json").is_file():
        load = f"controlnet = ControlNetModel.from_pretrained({str(folder)!r})"
        return f"from diffusers import ControlNetModel\n\n{load}"
    return "\n".join(str(version.path / path) for path in version.files if path.endswith(".safetensors"))
