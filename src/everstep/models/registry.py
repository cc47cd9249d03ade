"""The families: one row each, with how a base of it is recognised and what is known of it without PyTorch.

Never imports torch but inside `open_family`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from everstep.config.schema import Compute
    from everstep.models.arithmetic import Arithmetic
    from everstep.models.base import BaseFolder
    from everstep.models.family import Family


@dataclass(frozen=True, slots=True)
class Row:
    """A family. Folders are in the order in which a base's content is digested."""

    name: str
    title: str
    networks: tuple[str, ...]  # folders with weights
    tokenizers: tuple[str, ...]
    opened_by: str  # module:class
    sizes: tuple[str, ...] = ("full",)  # of its ControlNets
    may_have_wide_vae: bool = False  # if the VAE's config does not say otherwise (force_upcast)

    @property
    def components(self) -> tuple[str, ...]:
        """Every folder that a base of it has."""
        return (*self.networks, *self.tokenizers, "scheduler")


SD = Row(
    name="sd",
    title="Stable Diffusion 1.x and 2.x",
    networks=("unet", "vae", "text_encoder"),
    tokenizers=("tokenizer",),
    opened_by="everstep.models.sd:StableDiffusion",
)
SDXL = Row(
    name="sdxl",
    title="Stable Diffusion XL",
    networks=("unet", "vae", "text_encoder", "text_encoder_2"),
    tokenizers=("tokenizer", "tokenizer_2"),
    opened_by="everstep.models.sdxl:StableDiffusionXL",
    sizes=("full", "mid", "small", "lllite"),
    may_have_wide_vae=True,
)
ROWS = (SD, SDXL)


def row_of(folder: Path) -> Row:
    """The family of a base, by the folders that it has."""
    return row_of_names(path.name for path in folder.iterdir()) if folder.is_dir() else SD


def row_of_names(names: Iterable[str]) -> Row:
    """The same, by the names of its folders."""
    return SDXL if "text_encoder_2" in names else SD


def open_family(base: "BaseFolder", arithmetic: "Arithmetic", compute: "Compute") -> "Family":
    """Load a base into memory. Raises: UserError if it cannot be read."""
    import everstep.models.libraries  # noqa: F401  (before the family imports them)

    module, _, name = base.row.opened_by.partition(":")
    family: Family = getattr(import_module(module), name)(base, arithmetic, compute)
    return family
