"""What a base in one file predicts, noise or velocity: as its tensors, its metadata or settings beside it say.

Never imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from everstep.config.yamlfile import FAULTS, Loader
from everstep.errors import UserError
from everstep.exchange.keys import Bijection
from everstep.models.foreign import Foreign, reading
from everstep.models.numbers import Place
from everstep.models.weights import reason
from everstep.models.whole import Whole
from everstep.plain_files import open_plain

WORDS = {"v": "v_prediction", "v_prediction": "v_prediction", "vpred": "v_prediction", "v-prediction": "v_prediction"}
WORDS |= {"eps": "epsilon", "epsilon": "epsilon"}
IN_WORDS = {"epsilon": "noise (eps)", "v_prediction": "velocity (v)"}
SAYS = ("modelspec.prediction_type", "modelspec.predict_key")
YES = ("true", "1")
STEPS = {875_000: "epsilon", 110_000: "v_prediction"}  # at which Stable Diffusion 2.0 base and 2.1 ended
SPREAD_OF_VELOCITY = 0.09  # of one bias in 2.x: ComfyUI, comfy/supported_models.py, SD20
SETTINGS_MOST_BYTES = 1 << 18
MOST_PIXELS = 4096


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is predicted.

    Args:
        side: of the pictures that it was made for, in pixels; None for the usual.
    """

    kind: str
    is_zero_snr: bool = False  # whether its last step is noise alone
    side: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Of a scheduler."""
        told = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"} if self.is_zero_snr else {}
        return {"prediction_type": self.kind, **told}


def settings_of(path: Path) -> Path:
    """Where other programs look for what a file does not say of itself."""
    return path.with_suffix(".yaml")


def prediction_of(held: Foreign, whole: Whole, unet: Bijection) -> Prediction:
    """Raises: UserError for a word that is not known."""
    beside = _beside(held.path, whole)
    kind = beside or _said(held) or whole.usual
    notes: tuple[str, ...] = ()
    if kind is None and (kind := STEPS.get(_step(held) or 0)) is None:
        kind = _by_numbers(held, unet)
        other = next(word for word, meant in (("eps", "epsilon"), ("v", "v_prediction")) if meant != kind)
        notes = (f"{held.path} does not say what it predicts. By its numbers it is {IN_WORDS[kind]}, and so it is "
                 f"used; where that is wrong, {settings_of(held.path).name} beside it says otherwise: "
                 f"model: {{params: {{parameterization: {other}}}}}",)  # fmt: skip
    is_zero_snr = "ztsnr" in held.tensors or _is_yes(held.metadata, "ss_zero_terminal_snr")
    return Prediction(kind, is_zero_snr, _side(held.metadata, whole) or whole.sides.get(kind), notes)


def _said(held: Foreign) -> str | None:
    """By a tensor, or by metadata. Raises: UserError."""
    if "v_pred" in held.tensors:
        return "v_prediction"
    for key in SAYS:
        if said := held.metadata.get(key, "").strip():
            return _meant(f"{held.path} says in its metadata that {key}", said)
    if _is_yes(held.metadata, "ss_v_parameterization"):
        return "v_prediction"
    return "v_prediction" if held.metadata.get("modelspec.architecture", "").endswith("-768-v") else None


def _is_yes(metadata: Mapping[str, str], key: str) -> bool:
    return metadata.get(key, "").strip().lower() in YES


def _meant(what: str, said: object) -> str:
    """Raises: UserError."""
    meant = WORDS.get(str(said).lower())
    if meant is None:
        raise UserError(f"{what} is {str(said)[:60]!r}; noise (eps, epsilon) and velocity (v, v_prediction) are known. "
                        "Nothing was started.")  # fmt: skip
    return meant


def _beside(path: Path, whole: Whole) -> str | None:
    """What settings beside it say, in the words of Stable Diffusion's authors; what is no such settings says nothing.

    Raises: UserError if they cannot be read, or say what is not known.
    """
    place = settings_of(path)
    if not place.is_file():
        return None
    try:
        with open_plain(place) as file:
            content: Any = yaml.load(file.read(SETTINGS_MOST_BYTES), Loader)
        said = content["model"]["params"]
        if not isinstance(said, dict):
            return None
    except OSError as error:
        raise UserError(f"{place} cannot be read: {reason(error)}. Nothing was started.") from None
    except FAULTS:
        return None
    # Theirs leave out what is usual there: noise.
    word = said.get("parameterization", "eps" if whole.usual is None else None)
    return None if word is None else _meant(f"{place}: parameterization", word)


def _step(held: Foreign) -> int | None:
    """At which its training ended, where a checkpoint tells."""
    said = held.beside.get("global_step")
    return said if type(said) is int else None


def _by_numbers(held: Foreign, unet: Bijection) -> str:
    """Raises: Refused if the file ends in it."""
    import numpy as np  # not at the top: verbs that only look load no numbers

    place = _last_norm(held, unet)
    with reading(held.path) as (file, _):
        spread = float(np.std(place.read(file)))
    return "v_prediction" if spread > SPREAD_OF_VELOCITY else "epsilon"


def _last_norm(held: Foreign, unet: Bijection) -> Place:
    """The first bias of the last attention: output_blocks.11.1 of the true ones."""
    ending = ".1.transformer_blocks.0.norm1.bias"
    blocks = [link.theirs for link in unet.links if ".output_blocks." in link.theirs and link.theirs.endswith(ending)]
    return held.tensors[max(blocks, key=lambda name: int(name.removesuffix(ending).rpartition(".")[2]))]


def _side(metadata: Mapping[str, str], whole: Whole) -> int | None:
    """Of its pictures, where it says so, and where they are as its networks can halve them."""
    width, _, height = metadata.get("modelspec.resolution", "").partition("x")
    if width != height or not (width.isascii() and width.isdecimal() and len(width) < 6):
        return None
    step = whole.vae_factor * 2 ** (len(whole.parts["unet"]["block_out_channels"]) - 1)
    return int(width) if 0 < int(width) <= MOST_PIXELS and int(width) % step == 0 else None
