"""What every run's folder says of itself to whoever finds it; what was trained, and what is in it, its maker tells."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """What the maker of a run says of it."""

    what: str = "training"
    inside: str = """\
  *.safetensors   its tensors; any safetensors library reads them
  training/       what only an exact resume needs"""
    go_on: str = "start the program that made it again"  # {name} is the run's
    best_score: str = ""  # the score that RUN@best goes by, with a minus where lower is better; empty for none


BEST_BEFORE = "control_gain"  # what best meant for runs that do not say, made before runs said it

README = """\
This folder is one {what}, kept by Everstep.

version_N/        a complete, verified state of the training: N counts versions, not steps
{inside}
  manifest.json   step, settings, parent, and a digest of every tensor; without it a version does not count
hparams.yaml      every setting of the training
records/          curves, samples, labels, scores: about versions, never inside them
quarantine/       versions that were found damaged; nothing is ever deleted from it
log.jsonl         what happened

Go on:            {go_on}
See:              everstep list {name}
Check the disk:   everstep verify {name}            One version whole:  everstep show {name}@latest
"""


def readme(name: str, about: About) -> str:
    """The text for a run of this name."""
    return README.format(name=name, what=about.what, inside=about.inside, go_on=about.go_on.format(name=name))
