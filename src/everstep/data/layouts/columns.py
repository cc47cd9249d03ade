"""Which column, key, folder or ending holds the targets, the conditions and the captions: asked for, or guessed."""

from collections.abc import Iterable
from dataclasses import dataclass

from everstep.errors import UserError
from everstep.letters import printable

# The names that are understood, the usual one first.
TARGETS = ("target", "image", "file_name", "image_file_name", "target_image", "edited_image", "targets", "images",
           "output", "output_image", "img", "photo", "photos", "ground_truth")  # fmt: skip
CONDITIONS = ("conditioning_image", "condition_image", "conditioning_image_file_name", "condition", "source", "control",
              "conditioning", "control_image", "hint", "input_image", "conditions", "sources", "conditioning_images",
              "controls", "hints", "source_image", "input", "canny", "edge", "edges", "depth", "pose", "openpose",
              "scribble", "lineart", "outline", "outlines", "seg", "segmentation", "mask", "normal", "tile",
              )  # fmt: skip
CAPTIONS = ("text", "caption", "prompt", "captions", "texts", "prompts", "edit_prompt", "description", "txt")
ROLES = {"target": TARGETS, "condition": CONDITIONS, "caption": CAPTIONS}


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of columns; None for one that is not there, or not asked for."""

    target: str | None = None
    condition: str | None = None
    caption: str | None = None

    def in_words(self, what: str = "") -> str:
        """target image, condition edges, no captions."""
        words = [f"target {self.target}"]
        words.append(f"condition {self.condition}" if self.condition else "no conditions")
        words.append(f"caption {self.caption}" if self.caption else "no captions")
        return f"{what}{', '.join(words)}"


NOTHING_ASKED = Columns()


def guess(where: str, names: Iterable[str], asked: Columns) -> Columns:
    """The columns that are meant. Raises: UserError with those that there are, if one is not or no target is."""
    there = list(names)
    folded = {name.casefold(): name for name in reversed(there)}
    found: dict[str, str | None] = {}
    taken = {getattr(asked, role) for role in ROLES}
    for role, known in ROLES.items():
        wanted = getattr(asked, role)
        if wanted is not None and wanted not in there:
            raise UserError(
                f"{where} has no {printable(wanted)}, which data.{role}_column names; it has "
                f"{printable(', '.join(there)) or 'nothing'}. Nothing was started."
            )
        free = (folded[name] for name in known if name in folded and folded[name] not in taken)
        found[role] = wanted or next(free, None)
    if found["target"] is None:
        raise UserError(
            f"{where} has no column that is known to hold targets; it has "
            f"{printable(', '.join(there)) or 'nothing'}. Nothing was started. Say which does: "
            "--data.target-column NAME, and likewise --data.condition-column and --data.caption-column."
        )
    return Columns(found["target"], found["condition"], found["caption"])
