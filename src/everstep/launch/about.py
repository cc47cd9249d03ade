"""What the folder of a ControlNet's run says of itself."""

from everstep.config.schema import Keep
from everstep.versions.readme import About

INSIDE = """\
  controlnet/     the trained network; diffusers loads a ControlNet: ControlNetModel.from_pretrained(".../controlnet")
  training/       what an exact resume needs: optimizer, counters"""


def about(keep: Keep) -> About:
    """For Run.create."""
    return About("training of a ControlNet", INSIDE, "everstep resume {name}", keep.score)
