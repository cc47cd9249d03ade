"""What was measured of a version, put into its run's records: scores, the verdict, the contact sheet."""

from PIL import Image

from everstep.evaluation.examples import Denoised
from everstep.evaluation.gain import BASE, CONDITIONS, SEEN_BASE
from everstep.evaluation.paired import paired_test
from everstep.evaluation.scorer import Found, Scorer
from everstep.evaluation.sheets import describe_sheet, save_sheet
from everstep.records.curve import draw_curve
from everstep.records.errors import Errors, write_errors
from everstep.records.scores import Scored, file_scores, points
from everstep.records.verdict import Verdict
from everstep.versions import Run, Version


def as_scored(version: Version, found: Found, loss: float | None = None) -> Scored:
    """Under the version's name."""
    return Scored(
        version=version.number,
        step=version.step,
        images_seen=version.images_seen,
        manifest_digest=version.manifest_digest,
        gain=found.gain,
        others={**({} if loss is None else {"loss": loss}), **found.others},
        failed=found.failed,
        intervals=found.intervals,
        pictures=found.num_scored,
    )


def file_found(
    run: Run, version: Version, scorer: Scorer, found: Found, averaged: bool, loss: float | None = None
) -> tuple[Verdict, Image.Image | None]:
    """Write it all; returns what the line of versions says now, and the contact sheet. Raises: OSError."""
    if found.denoised is not None:
        _file_errors(run, version, found.denoised)
    told = file_scores(run, as_scored(version, found, loss), scorer.config.optim.images_per_step, paired_test(run))
    _save_curve(run, told)
    if found.pictures is None:
        return told, None
    facts = describe_sheet(run, version, scorer, found.pictures, averaged)
    return told, save_sheet(run, facts, scorer.shown, found.pictures)


def _file_errors(run: Run, version: Version, measured: Denoised) -> None:
    """Of every example: the version's own, and once those of the base alone."""
    places, digest = measured.places, measured.gain.design or ""
    for number, manifest_digest, kinds in (
        (version.number, version.manifest_digest, CONDITIONS),
        (None, "", (BASE, SEEN_BASE)),
    ):
        by_condition = {kind: [float(f"{error:.7g}") for error in measured.errors[kind]] for kind in kinds}
        write_errors(run, number, Errors(digest, manifest_digest, places, by_condition))


def _save_curve(run: Run, told: Verdict) -> None:
    """records/scores.png: the whole training in one picture."""
    measured = points(run)
    notes = {point.version: run.annotation(point.version).scores for point in measured}  # a later score has no loss
    losses = {version: scores["loss"] for version, scores in notes.items() if "loss" in scores}
    draw_curve(run.name, measured, losses, told).save(run.layout.records / "scores.png")


def in_words(found: Found) -> str:
    """control gain 0.213 (0.190 to 0.241), benefit 0.105 (0.081 to 0.127), circle_iou 0.712 (0.661 to 0.764, 32
    pictures).
    """
    parts = [f"{name} {value:z.3f}{_how_sure(found, name)}" for name, value in found.others.items()]
    if found.gain is not None:
        gain = found.gain
        near = "" if gain.near is None else f", {gain.near:z.3f} near the lines"
        said = [f"control gain {gain.value:z.3f} ({gain.low:z.3f} to {gain.high:z.3f}{near})"]
        if gain.benefit is not None:
            said.append(f"benefit {gain.benefit:z.3f} ({gain.benefit_low:z.3f} to {gain.benefit_high:z.3f})")
        parts = [*said, *parts]
    return ", ".join(parts)


def _how_sure(found: Found, name: str) -> str:
    """The interval of a score of pictures, and how many it rests on; nothing where it has none."""
    if name not in found.intervals:
        return ""
    low, high = found.intervals[name]
    return f" ({low:z.3f} to {high:z.3f}, {found.num_scored} pictures)"
