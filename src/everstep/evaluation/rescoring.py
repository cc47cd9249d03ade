"""Scores of versions on disk, after the fact: the base is loaded once, and each version's weights are put in turn.

Can be ended at any moment: what was scored is filed, and the next call does the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from everstep.config.schema import Config
from everstep.data import split_as
from everstep.errors import UserError
from everstep.evaluation.filing import as_scored, file_found, in_words
from everstep.evaluation.loading import config_of, open_base, weights_drawn_with
from everstep.evaluation.moved import as_they_are
from everstep.evaluation.scorer import Scorer, example_settings
from everstep.models.conditions import open_framer, open_pairs
from everstep.models.files import AVERAGED
from everstep.records.scores import Scored, read_scores
from everstep.records.verdict import Verdict
from everstep.versions import Run, Version
from everstep.versions.reading import reading
from everstep.versions.torch import load_weights


@dataclass(frozen=True, slots=True)
class Rescored:
    """One version's turn."""

    version: Version
    scored: Scored
    in_words: str
    verdict: Verdict


def unscored(run: Run, versions: Sequence[Version]) -> list[Version]:
    """Those of which no control gain is on record."""
    known = read_scores(run)
    return [
        version
        for version in versions
        if (scored := known.get(version.number)) is None
        or scored.gain is None
        or scored.manifest_digest != version.manifest_digest
    ]


def rescore(run: Run, versions: Sequence[Version], num_pictures: int | None = None) -> Iterator[Rescored]:
    """Measure each version and file it. All on the same examples, by the settings of the newest one.

    Args:
        num_pictures: to draw; left out, as many as the run's contact sheets show.

    Raises: UserError if the data changed since; DamageFound naming the tensor of a version that is not whole.
    """
    newest = max(versions, key=lambda version: version.number)
    config = config_of(newest)
    scorer = open_scorer(config, newest, num_pictures)
    controlnet = scorer.family.load_controlnet(str(newest.path / "controlnet"))
    for version in versions:
        weights = weights_drawn_with(version)
        with reading(version.path):
            load_weights(controlnet, version, weights)
        found = scorer(controlnet)
        verdict, _ = file_found(run, version, scorer, found, weights == AVERAGED)
        failed = [f"{name} failed: {why}" for name, why in found.failed.items()]
        told = "; ".join(filter(None, [in_words(found), *failed]))
        yield Rescored(version, as_scored(version, found), told, verdict)


def open_scorer(config: Config, version: Version, num_pictures: int | None = None) -> Scorer:
    """Base and held-out pairs of a version. Raises: UserError if the pairs are not those that it was trained on."""
    config = as_they_are(config, version)
    source = open_pairs(config.data)
    if source.fingerprint() != version.manifest["data"]["fingerprint"]:
        raise UserError(
            f"The pairs in {config.data.path} have changed since {version.name} was made: scores would not compare. "
            "Nothing was scored."
        )
    family = open_base(config)
    pairs = split_as(source, config.data.held_out_pairs, version.manifest["data"])
    framer, settings = open_framer(config, source, family.arithmetic.device), example_settings(config, family)
    scorer = Scorer(family, config, framer, pairs, settings, num_pictures)
    if num_pictures is not None:
        scorer.refuse_too_few()
    return scorer
