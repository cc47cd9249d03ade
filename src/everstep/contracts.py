"""The shapes in which layers hand things to each other: frozen dataclasses and protocols, no behaviour.

Must not import anything of the house but errors, and never torch.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

    Uint8Array = npt.NDArray[np.uint8]
    Float32Array = npt.NDArray[np.float32]
    Float64Array = npt.NDArray[np.float64]
    Int64Array = npt.NDArray[np.int64]
else:  # verbs that only look answer before numpy would be loaded
    Uint8Array = Float32Array = Float64Array = Int64Array = Any

Report = Callable[[str], None]  # says a sentence to whoever looks on; never raises
Counted = Callable[[int, int], None]  # so much of so much is done; raises only to end what is done
Changes = dict[str, tuple[Any, Any]]  # setting -> (before, after)


class During(Protocol):
    """What is done inside is said if it takes long, with how much of it is done. Never raises."""

    def __call__(
        self, what: str, unit: str = "", count: Callable[[int], str] = "{:,}".format
    ) -> AbstractContextManager[Counted]: ...


class Reason(StrEnum):
    """Why a version was made; written in its manifest."""

    START = "start"  # before the first step
    INTERVAL = "interval"
    ASKED = "asked"  # everstep save, everstep stop
    SIGNAL = "signal"
    RESCUE = "rescue"  # from memory, after the trainer's death
    FINAL = "final"  # all steps are done
    EARLY = "early"  # ended before: the score rises no more


COMPLETE = (Reason.FINAL, Reason.EARLY)  # of the last version of a training that is over


# --- data -> models, train ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pair:
    """One training example before crop and resize: both images RGB, and of the same shape.

    condition: None where none is read, since it is made from the target once that is cropped and resized.
    size: width and height of the target on the disk, where it was decoded smaller.
    """

    target: "Image.Image"
    condition: "Image.Image | None"
    caption: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Smaller:
    """How small pictures may be decoded: not below width and height of what is cut out of them."""

    target: tuple[int, int]
    condition: tuple[int, int] | None  # None where it has to be whole


@dataclass(frozen=True, slots=True)
class Which:
    """Of several captions and conditions of one pair: shares of their number, 0 <= share < 1; the first unless told."""

    caption: float = 0.0
    condition: float = 0.0


@dataclass(frozen=True, slots=True)
class Contents:
    """A pair by what it holds: digests of its pictures, whatever their names, and its captions."""

    target: str
    conditions: tuple[str, ...]
    captions: tuple[str, ...]


class PairSource(Protocol):
    """A numbered collection of pairs. The number of a pair never changes while its data does not."""

    def __len__(self) -> int: ...

    def name(self, pair: int) -> str:
        """Stable identity of the pair within its data (a file name); what held-out choice and reports use."""
        ...

    def load(self, pair: int, which: Which = ..., smaller: Smaller | None = None) -> Pair:
        """Read the pair. Safe to call from threads.

        Args:
            smaller: what is enough, for whoever can give less sooner.

        Raises: UserError naming the file if it cannot be read.
        """
        ...

    def fingerprint(self) -> str:
        """Digest of everything that the pairs are made of: equal if and only if the data are equal."""
        ...

    def contents(self, pair: int) -> "Contents":
        """What the pair is made of, told apart without reading it."""
        ...

    def is_as_checked(self, pair: int, condition: int) -> bool:
        """Whether target and this condition still are what `contents` says; reads them. Raises: OSError; ValueError."""
        ...


@dataclass(frozen=True, slots=True)
class Framing:
    """How pictures of pairs are made into what is trained on.

    Units: resolution is the side of the square, in pixels, unless a shape is asked for.
    """

    resolution: int
    condition_resize: Literal["bilinear", "nearest", "area"] = "bilinear"
    resize: Literal["lanczos", "area"] = "lanczos"


@dataclass(frozen=True, slots=True)
class ExampleSettings:
    """All that an example depends on besides its number and its framed pair."""

    seed: int
    latent_shape: tuple[int, int, int]  # of the square: channels, height, width
    timestep_shift: float = 1.0
    prompt_dropout: float = 0.5
    posterior: bool = True  # whether the VAE draws latents from a posterior, which takes noise of its own
    crop: Literal["centre", "random"] = "centre"
    flip_probability: float = 0.0


@dataclass(frozen=True, slots=True)
class Moments:
    """What a VAE makes of a picture, before scaling: [C,h,w] float32; no deviation where latents are not drawn."""

    mean_CHW: Float32Array
    deviation_CHW: Float32Array | None


Embedding = Mapping[str, Float32Array]  # what is heard of a prompt, by name


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples first_example .. first_example + B - 1 of a run, each a pure function of (seed, its number); in buckets
    of the batch size too.

    Shapes:
        targets_BHWC, conditions_BHWC: uint8 RGB, 0..255, cropped and resized to what is trained on: a square, or, in
            buckets, the shape of the batch
        moments, text: what was encoded of targets and captions before; then there need be no targets
        noise_BCHW: float32, standard normal, in the shape of the latents
        posterior_noise_BCHW: float32, standard normal; draws the latents from the VAE's posterior, if it has one
        times_B: float64, 0 the picture, 1 noise alone
        frames_B6: int64, in pixels: height and width of the picture as it was; top and left of what was cropped from
            it, once resized; height and width of what is trained on
    """

    first_example: int
    pairs: tuple[int, ...]
    captions: tuple[str, ...]  # "" where the prompt was dropped
    targets_BHWC: Uint8Array | None
    conditions_BHWC: Uint8Array
    noise_BCHW: Float32Array
    posterior_noise_BCHW: Float32Array | None
    times_B: Float64Array
    frames_B6: Int64Array
    moments: tuple[Moments, ...] | None = None
    text: tuple[Embedding, ...] | None = None


# --- train -> versions -------------------------------------------------------------------------------------


class TensorSource(Protocol):
    """One tensor to be written: where its bytes come from, asked for only when they are needed."""

    @property
    def dtype(self) -> str:
        """safetensors name of the dtype: F32, F16, BF16, I64, U8 ..."""
        ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def buffer(self) -> memoryview:
        """The tensor's bytes, C-contiguous, little-endian, format "B". May copy from a device; not kept."""
        ...


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file of a version, to be written. Tensors are laid out in the order given."""

    path: str  # inside the version: "controlnet/diffusion_pytorch_model.safetensors"
    tensors: Mapping[str, TensorSource]
    metadata: Mapping[str, str] = field(default_factory=dict)  # constant facts only: {"format": "pt"}


@dataclass(frozen=True, slots=True)
class ParentRef:
    """The version that training went on from, and what was changed on purpose."""

    run: str
    version: int
    manifest_digest: str
    changes: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)  # key -> (before, after)


@dataclass(frozen=True, slots=True)
class Draft:
    """Everything a version will hold, before it exists."""

    step: int
    images_seen: int
    reason: str  # a Reason
    parent: ParentRef | None
    tensor_files: Sequence[TensorFile]
    small_files: Mapping[str, bytes]  # path inside the version -> content: config.json, state.json, hparams.yaml
    facts: Mapping[str, Any]  # JSON for the manifest: base, data, config, libraries, code, health
