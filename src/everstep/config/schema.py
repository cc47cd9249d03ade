"""Every setting of a training, with its meaning, unit and range: one model per section.

Owns names, defaults and checks of single values. Knows nothing of files, flags or what a setting is used for.
The line under each field is its help text on the command line.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from everstep.config.amounts import Bytes, Every, Span
from everstep.config.cadence import Cadence
from everstep.config.thinning import Thinning


class Section(BaseModel):
    """Refuses unknown keys and is never changed after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class PathSection(Section):
    """A section that may be written as its path alone: `base: photos/` means `base: {path: photos/}`."""

    @model_validator(mode="before")
    @classmethod
    def _from_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Base(PathSection):
    """The frozen text-to-image model."""

    path: str = "builtin:circles"
    """Folder or hub id in diffusers layout, or builtin:circles."""
    revision: str | None = None
    """Branch, tag or commit where the path is a hub id."""


class Data(PathSection):
    """The pairs, and what is done to each before it is trained on."""

    path: str = "builtin:circles"
    """Folder with a list, parquet, tar shards, a saved dataset or named pictures; an address; a hub id; a builtin."""
    target_column: str | None = None
    """Column, key, folder or ending that holds the targets; null to guess it from the usual names."""
    condition_column: str | None = None
    """The same of the conditions."""
    caption_column: str | None = None
    """The same of the captions."""
    resolution: Annotated[int, Field(ge=8, le=4096)] | None = None
    """Side of the square that is trained on, in pixels; left out, the base's own size."""
    shape: Literal["square", "buckets"] = "square"
    """What pictures are cropped to: square, or, in buckets, the nearest of some shapes of its area, a batch alike."""
    bad_pairs: Literal["refuse", "skip"] = "refuse"
    """What a pair that cannot be used does: refuse to start, or skip it and say so in every version."""
    held_out_pairs: Annotated[int, Field(ge=0)] = 64
    """Pairs kept apart for samples and scores, never trained on; at most 5 % of the data, of small sets 10 % or 16."""
    prompt_dropout: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of examples that are trained with an empty prompt; the ControlNet paper's is 0.5."""
    crop: Literal["centre", "random"] = "centre"
    """Which square of a picture is trained on; both pictures of a pair get the same."""
    flip_probability: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of examples that are mirrored left to right, both pictures alike."""
    condition: str = "file"
    """file, a picture of each pair; or made from the target: canny, softedge, lineart, depth, grey, blur, tile,
    inpaint, or a function of your own, FILE.py:FUNCTION."""
    condition_model: str | None = None
    """Model that makes it: an exported program (.pt2), for depth also a transformers folder; softedge and lineart can
    do without."""
    condition_random: bool = False
    """Draw the thresholds of canny, the width of blur or the factor of tile for each example; held-out pairs have
    fixed ones."""
    condition_resize: Literal["area", "bilinear", "nearest"] = "area"
    """How condition images are resized: area, the mean of what a pixel covers; bilinear, in three times the time; or
    nearest, for label maps whose colours are classes and for edges that have to stay black or white."""
    resize: Literal["area", "lanczos"] = "area"
    """How targets are resized: area, the mean of what a pixel covers, in half the time; or lanczos, a bit crisper."""
    cache: Literal["off", "ahead", "along"] = "off"
    """Encode each picture and prompt once and keep it: all before training begins, along with it, or not at all."""
    cache_folder: str | None = None
    """Where the cache lies, shared by runs; left out, in the user's own, ~/.cache/everstep/encoded."""
    workers: Annotated[int, Field(ge=0, le=64)] = 2
    """Threads that read pictures ahead; changes nothing in what is trained."""


class Optim(Section):
    """How the ControlNet is trained."""

    start_from: str | None = None
    """Weights to start from: RUN@VERSION, a ControlNet's folder or file; left out, the base with zero convolutions."""
    control: Literal["full", "mid", "small", "lllite"] = "full"
    """What is trained: a whole ControlNet; of SDXL also one with less in it (mid, small), or a ControlNet-LLLite."""
    hint_start: Literal["zero", "random"] = "zero"
    """How the hint encoder's last layer begins; step 0 draws as the base either way. An LLLite has none."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of order, noise, timesteps, dropout and augmentation."""
    max_steps: Annotated[int, Field(ge=1, le=10**9)] = 10_000
    """Optimizer steps until the training is complete."""
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 4
    """Examples in one forward and backward pass."""
    accumulation_steps: Annotated[int, Field(ge=1, le=10**6)] = 1
    """Passes whose gradients make one optimizer step."""
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "prodigy"] = "adamw"
    """What takes the steps; adamw8bit and prodigy need everstep[optimizers], and prodigy learning_rate 1."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """Highest learning rate of the schedule; prodigy multiplies the rate it finds by this."""
    schedule: Literal["constant", "linear", "cosine", "polynomial"] = "constant"
    """How the learning rate falls from the end of warm-up to max_steps."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Optimizer steps over which the learning rate rises from zero."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment; adafactor has none."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the second moment; adafactor has its own."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay, of any optimizer."""
    epsilon: Annotated[float, Field(gt=0)] = 1e-8
    """Term in the denominator; adafactor has its own."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this norm; null to leave them."""
    timestep_shift: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Above 1, more examples have much noise, where form is decided; 1 draws all timesteps alike."""
    min_snr_gamma: Annotated[float, Field(gt=0)] | None = None
    """Loss weights min(SNR, gamma), usually 5 (Hang et al. 2023); null for equal weights."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay per step of the averaged weights, which are then used for samples; 0 for none."""

    @property
    def images_per_step(self) -> int:
        """Examples that one optimizer step is made of."""
        return self.batch_size * self.accumulation_steps


class Compute(Section):
    """Where and in what arithmetic."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N; auto is CUDA where there is any."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the forward pass; the ControlNet's weights are fp32 in any; auto is bf16 on CUDA that has it, else fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a fifth to a quarter more arithmetic."""
    channels_last: bool = False
    """Keep pictures in NHWC memory order; faster on GPUs with tensor cores."""
    compile: bool = False
    """Run the networks through torch.compile; slow to start, faster afterwards."""
    deterministic: bool = False
    """On CUDA, use deterministic kernels only, so that a resume is exact there too; the CPU always is."""
    threads: Annotated[int, Field(ge=0)] = 0
    """CPU threads of each process; 0 leaves the choice to PyTorch, and to several processes an equal part."""
    ranks: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1
    """Processes of this machine that train together, each with a GPU and its part of every batch; auto: one a GPU."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several ranks hold: ddp, each the whole; fsdp, each a part of network, moments and base, where one GPU
    cannot hold them."""


class Versions(Section):
    """When training is saved."""

    every: Cadence = Cadence(steps=300)
    """Optimizer steps, minutes or both between versions, 300, 10min or 300,10min; or auto: what costs least time, found
    while training runs from what versions cost here and how often machines fail."""
    bytes_a_day: Bytes = Bytes("500GB")
    """Most that versions may write where their interval is auto; what a disk of 1 TB stands for some years."""

    @field_validator("every", mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        return Cadence.parse(value) if isinstance(value, str | int) else value

    @field_validator("bytes_a_day")
    @classmethod
    def _refuse_none(cls, value: Bytes) -> Bytes:
        if value.total <= 0:
            raise ValueError(f"{str(value)!r} would be no version at all; write it as 500GB")
        return value


class Keep(Section):
    """Which versions stay once newer ones are there; a version stays if any of these keeps it."""

    last: Annotated[int, Field(ge=0)] = 3
    """Newest versions kept whole."""
    best: Annotated[int, Field(ge=0)] = 1
    """Versions with the highest score, kept slim: without what only a resume needs."""
    score: str = "benefit"
    """The score that best goes by; higher is better, with a minus in front, as in -depth_rmse, lower."""
    every: Every = Every(versions=10)
    """One of every so many versions, steps or so much time, kept slim: "10 versions", 3000, 6h, or none."""
    hourly: Annotated[int, Field(ge=0)] = 0
    """The newest version of each of the last so many hours, kept slim."""
    daily: Annotated[int, Field(ge=0)] = 0
    """The same by days."""
    weekly: Annotated[int, Field(ge=0)] = 0
    """The same by weeks."""
    within: Span | None = None
    """All versions younger than this are kept whole: 90min, 12h, 2days."""
    budget: Bytes | None = None
    """Room for all versions together, as 50GB: the oldest are made slim, then dropped; pinned and labelled stay."""
    jump: bool = True
    """The versions just before and just after the condition came to be obeyed are kept."""
    everything: bool = False
    """Keep all versions whole; nothing else here counts then."""


class Keeper(Section):
    """How the training is watched and kept in memory. Nothing of it changes what is trained."""

    snapshots: Annotated[int, Field(ge=1)] | Literal["auto", "off"] = "auto"
    """Copies into memory that survives the trainer: every so many steps, as often as `overhead` allows, or off."""
    overhead: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Share of training time that snapshots may cost where they are automatic."""
    copying: Literal["auto", "blocking", "background"] = "auto"
    """Copy while training waits or during the next forward and backward; auto is what costs less here, measured."""
    ram_dir: str | None = None
    """Folder in memory for the snapshots; left out, /dev/shm where it has room, else a nameless memory file."""
    mtbf: Span = Span("30days")
    """Mean time between failures of a machine that leave no more than its disk, for intervals that are auto: 30days,
    or 4h for one that is lent until somebody pays more."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """How often a trainer that died is started again by itself."""
    hang_minutes: Annotated[float, Field(gt=0)] = 15.0
    """Minutes without a step after which the last snapshot is committed and the hang reported."""
    unattended_minutes: Annotated[float, Field(ge=0)] | None = None
    """Minutes of a disk refusing every version after which training ends with exit code 4; left out, it goes on."""

    @field_validator("mtbf")
    @classmethod
    def _refuse_always(cls, value: Span) -> Span:
        if value.seconds < 1:
            raise ValueError(f"{str(value)!r} is less than a second; write it as 30days")
        return value


class Scoring(Section):
    """What tells, at each version, whether the condition is obeyed. Nothing of it changes what is trained."""

    overhead: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of training time that control gain may cost: decides on how many held-out examples it rests, 64 at least,
    and how many versions are measured; 0 for none."""
    adherence: Literal["auto", "off", "circles", "canny", "lineart", "softedge", "depth", "segmentation"] = "auto"
    """What is taken from the drawn pictures again and compared; auto is circles for the built-in data, else off."""
    extractor: str | None = None
    """Model that takes it: an exported program (.pt2), for depth and segmentation also a transformers folder."""
    clip: str | None = None
    """CLIP model, a transformers folder: how well drawn pictures fit their captions."""
    fid: str | None = None
    """Feature extractor (.pt2): FID of drawn pictures and targets, or KID below a picture more than it has features."""
    pictures_overhead: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of training time that pictures may cost where they are scored; 0 draws those of the contact sheet alone."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Versions without a higher benefit after which training ends, once the condition is obeyed; or never."""


class Mirror(Section):
    """Copies of every version in other places, kept up by the training, behind everything else."""

    targets: tuple[str, ...] = ()
    """Folders and addresses, s3://BUCKET/PATH, sftp://USER@HOST/PATH, hf://OWNER/NAME. The copies go to a folder in
    each that is named as the run."""
    slim: bool = False
    """Without what only an exact resume needs."""
    rate: Bytes | None = None
    """The most that is sent in a second, as 20MB; left out, no limit."""
    keep: Thinning = Thinning()
    """Which versions the mirrors keep: everything, or rules of which each keeps some, as "last 5, daily 7, every 6h,
    within 2days, budget 50GB"; pinned and labelled ones stay."""
    wait: Span = Span("10min")
    """How long the end of a training waits for what mirrors lack: a container, or a job, ends with it. 0 for not."""


class Tracking(Section):
    """Where curves, pictures and versions go besides the run's own records. Their failures never end a training."""

    tensorboard: bool | None = None
    """Event files in records/tensorboard; left out, where it is installed: `pip install 'everstep[tensorboard]'`."""
    trackio: str | None = None
    """trackio project; needs `pip install 'everstep[trackio]'`."""
    wandb_project: str | None = None
    """Weights & Biases project; needs `pip install 'everstep[wandb]'`."""


class Sampling(Section):
    """The pictures that are drawn at each version."""

    pairs: Annotated[int, Field(ge=0, le=64)] = 4
    """Held-out pairs on the contact sheet of each version; 0 draws none."""
    steps: Annotated[int, Field(ge=1, le=1000)] = 20
    """Denoising steps of the sampler."""
    guidance_scale: Annotated[float, Field(ge=0)] = 5.0
    """Classifier-free guidance; 1 for none."""
    condition_scale: Annotated[float, Field(ge=0)] = 1.0
    """Strength of the ControlNet's residuals."""
    scheduler: Literal["unipc", "ddim", "base"] = "unipc"
    """Sampler; base takes the one in the base's own folder."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the pictures' noise, the same at every version."""


class Config(Section):
    """All settings of a run."""

    base: Base = Base()
    data: Data = Data()
    optim: Optim = Optim()
    compute: Compute = Compute()
    versions: Versions = Versions()
    keep: Keep = Keep()
    keeper: Keeper = Keeper()
    scoring: Scoring = Scoring()
    sampling: Sampling = Sampling()
    tracking: Tracking = Tracking()
    mirror: Mirror = Mirror()
