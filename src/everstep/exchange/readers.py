"""Which program takes which layout of a ControlNet, where its file goes, and what it would misread.

One row for each program. Source: the programs' own code, as of 2026-11; tests/exchange/readers has their rules.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from everstep.errors import UserError
from everstep.exchange.architecture import SD1, SD2, SDXL_LLLITE, SDXL_MID, TITLES, architecture_of, kind_of
from everstep.exchange.keys import Layout, Plan
from everstep.exchange.lllite import LLLITE, is_lllite
from everstep.exchange.sd import CONTROLNET_DIFFUSERS, CONTROLNET_LDM

# Words in a file's name by which InvokeAI chooses what makes the condition, in the order in which it looks for them.
CONDITIONS = (
    *("canny", "mlsd", "depth", "bae", "normal", "sketch", "scribble", "lineart_anime", "lineart", "soft", "softedge"),
    *("hed", "pose", "mediapipe", "pidi", "zoe", "color"),
)
# Where diffusers reads the author's names it loses SDXL's second embedding, and InvokeAI does not know SDXL by them.
SINGLE = {
    **{kind: CONTROLNET_LDM if kind in (SD1, SD2) else CONTROLNET_DIFFUSERS for kind in TITLES},
    SDXL_LLLITE: LLLITE,
}


@dataclass(frozen=True, slots=True)
class Form:
    """How the weights are laid out for a reader."""

    layout: Layout
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Reader:
    """A program that draws with ControlNets.

    Args:
        singles: the layout of a single file, for each kind of network that is known by one.
        folders: text widths of networks that are known by a folder's config.json; None for every network.
        place: where the file or the folder goes.
        loaded_with: what loads it there.
        others: the same, for kinds that go elsewhere.
        notes: what is worth knowing of a kind.
    """

    title: str
    singles: Mapping[str, Layout]
    folders: tuple[int, ...] | None
    place: str
    loaded_with: str
    notes: Mapping[str, str] = field(default_factory=dict)
    words: tuple[str, ...] = ("shuffle",)  # in a file's name, after which it is used otherwise
    others: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def way(self, kind: str | None) -> tuple[str, str]:
        """Where a file of this kind goes, and what loads it there."""
        return self.others.get(kind or "", (self.place, self.loaded_with))

    def form(self, plan: Plan) -> Form:
        """Raises: UserError if the program would not know this network for what it is."""
        kind = kind_of(plan)
        if kind is not None and kind in self.singles:
            return Form(self.singles[kind], is_folder=False)
        if is_lllite(plan):
            raise UserError(self._no_lllite(kind))
        found = architecture_of(plan)
        if self.folders is None or found.text_width in self.folders:
            return Form(CONTROLNET_DIFFUSERS, is_folder=True)
        known = ", ".join(TITLES[kind] for kind in self.singles)
        raise UserError(
            f"{self.title} knows a ControlNet by its shapes: {known}. This one is none of them "
            f"({found.in_words()}) and would be refused, or loaded with holes. Nothing was written.\n"
            "A folder that diffusers loads as it stands: --for diffusers"
        )

    def _no_lllite(self, kind: str | None) -> str:
        if SDXL_LLLITE in self.singles:
            return (
                f"{self.title} knows an LLLite by where it stands in SDXL. This one stands elsewhere, and would be "
                "left out. Nothing was written."
            )
        able = ", ".join(name for name, reader in READERS.items() if kind is not None and kind in reader.singles)
        return f"{self.title} cannot draw with an LLLite. Nothing was written." + (f"\n--for {able}" if able else "")

    def check_name(self, name: str, condition: str | None) -> None:
        """Raises: UserError if the program would use a file of this name otherwise."""
        stem = PurePath(name).stem.lower()
        if word := next((word for word in self.words if word in stem), None):
            raise UserError(
                f"{name}: {self.title} uses a ControlNet with {word} in its name otherwise. Nothing was written.\n"
                "--out names it without that word."
            )
        chosen = next((word for word in CONDITIONS if word in stem), None)
        is_chosen = chosen is not None and condition is not None and condition.startswith(chosen)  # soft for softedge
        if self is INVOKEAI and condition in CONDITIONS and not is_chosen:
            raise UserError(
                f"{name}: InvokeAI would make {chosen} conditions for it, by its name, not {condition}. "
                "Nothing was written.\n--out names it without that word."
            )


DIFFUSERS = Reader(
    title="diffusers",
    singles={},
    folders=None,
    place="wherever you like",
    loaded_with="ControlNetModel.from_pretrained(FOLDER)",
    words=(),
)
COMFYUI = Reader(
    title="ComfyUI",
    singles=SINGLE,
    folders=(),
    place="ComfyUI/models/controlnet/",
    loaded_with="the nodes Load ControlNet Model and Apply ControlNet",
    others={
        SDXL_LLLITE: (
            "ComfyUI/custom_nodes/ControlNet-LLLite-ComfyUI/models/",
            "the node Load LLLite of kohya-ss/ControlNet-LLLite-ComfyUI",
        )
    },
)
FORGE = Reader(
    title="Forge",
    singles=SINGLE,
    folders=(),
    place="models/ControlNet/",
    loaded_with="the ControlNet panel, after its list of models is refreshed",
)
A1111 = Reader(
    title="A1111",
    singles=SINGLE,
    folders=(),
    place="extensions/sd-webui-controlnet/models/, or models/ControlNet/",
    loaded_with="the ControlNet panel of sd-webui-controlnet, after its list of models is refreshed",
    notes={SD2: "A1111 computes every ControlNet with 8 attention heads; Stable Diffusion 2.x has 5 to 20."},
    words=("shuffle", "instant_id"),
)
# A single file of SDXL, mid, is taken for the small one by diffusers, which it loads with; a folder has its own config.
INVOKEAI = Reader(
    title="InvokeAI",
    singles={kind: SINGLE[kind] for kind in TITLES if kind not in (SDXL_MID, SDXL_LLLITE)},
    folders=(768, 1024, 2048),
    place="added in Models, by its path",
    loaded_with="a control layer with this model",
)
READERS = {"diffusers": DIFFUSERS, "comfyui": COMFYUI, "forge": FORGE, "a1111": A1111, "invokeai": INVOKEAI}
