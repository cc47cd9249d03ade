"""What one training step takes of memory at its most, told from configs and shapes alone, without torch.

On a CPU that is what the trainer's process has in memory, without the snapshots, which lie beside it; on CUDA what
PyTorch has allocated there.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

from everstep.config.schema import Compute, Config
from everstep.exchange.lllite import sizes_of
from everstep.models.activations import WIDE_BYTES, Held, Pass, controlnet_holds, decoder_holds, is_cast, lllite_holds
from everstep.models.base import BaseFolder
from everstep.models.brought import LLLITE_CLASS, class_of
from everstep.models.controls import EMBEDDING, LITE, WIDTH, lllite_config, lllite_places, lllite_shapes_of
from everstep.models.optimizers import kept_of_network
from everstep.models.parts import network_shapes
from everstep.models.shapes import Shape, controlnet_shapes, hint_channels, smaller
from everstep.models.weights import TEXT_ENCODERS, find_weights, read_json, shapes_of

ITEM_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
# Python, PyTorch, diffusers, transformers and what they allocate once: a trainer on a CPU just before its first step,
# less its networks and moments. Measured with torch 2.13.0+cpu, diffusers 0.42.1: 513 to 538 MB of four trainings.
LIBRARIES_BYTES = 530_000_000
# Of the VAE's widest pictures, at the first resnet of its encoder: its input, what is normalised, what is activated;
# oneDNN also lays out anew what goes into a convolution and what comes out.
PICTURES_IN_VAE = {"cuda": 3, "cpu": 5}
NVIDIA = Path("/dev/nvidiactl")


@dataclass(frozen=True, slots=True)
class StepMemory:
    """The parts of it, in bytes.

    Args:
        device: cpu or cuda.
        batch_bytes: what forward and backward hold beside the gradients when they hold most.
        loading_bytes: the most while the networks are read, if that is in the same memory.
    """

    device: str
    base_bytes: int
    weights_bytes: int
    moments_bytes: int
    averaged_bytes: int
    gradients_bytes: int
    batch_bytes: int
    libraries_bytes: int
    loading_bytes: int

    @property
    def step_bytes(self) -> int:
        """Of a step."""
        stays = self.libraries_bytes + self.base_bytes + self.weights_bytes + self.moments_bytes + self.averaged_bytes
        return stays + self.gradients_bytes + self.batch_bytes

    @property
    def peak_bytes(self) -> int:
        """From the start to the end of the first steps."""
        return max(self.step_bytes, self.loading_bytes)


def step_memory(config: Config, base: BaseFolder, start: Path | None) -> StepMemory | None:
    """Of a config with nothing left open. None where a network has blocks, or the machine a device, that is not known.

    Args:
        start: the folder of the ControlNet that training begins with, if it is not begun from the base.
    """
    device = device_of(config.compute)
    if device not in PICTURES_IN_VAE:
        return None
    network, of_parts = _network(config, base, start), _part_shapes(base)
    shapes = _shapes(network, base)
    if shapes is None or of_parts is None:
        return None
    held = _parts_bytes(base, of_parts, config.compute, device)
    weights, averaged = WIDE_BYTES * _count(shapes), WIDE_BYTES * _count(shapes) * (config.optim.ema_decay > 0)
    gradients, batch = _most(config, base, device, network, shapes)
    libraries = LIBRARIES_BYTES if device == "cpu" else 0
    return StepMemory(
        device=device,
        base_bytes=sum(held.values()),
        weights_bytes=weights,
        moments_bytes=sum(one.size_bytes for one in kept_of_network(config.optim.optimizer, shapes).values()),
        averaged_bytes=averaged,
        gradients_bytes=gradients,
        batch_bytes=batch,
        libraries_bytes=libraries,
        loading_bytes=libraries + _most_loading(base, held) if device == "cpu" else 0,
    )


def _network(config: Config, base: BaseFolder, start: Path | None) -> Mapping[str, Any]:
    """The config.json of what is trained."""
    if start is not None and class_of(start) == LLLITE_CLASS:  # whose sizes are those of its tensors
        return lllite_config(*sizes_of(shapes_of(find_weights(start)) or {}))
    if start is not None:
        return read_json(start / "config.json")
    if config.optim.control == LITE:
        return lllite_config(EMBEDDING, WIDTH)
    unet = base.config("unet")
    return {**unet, **smaller(unet, config.optim.control)}


def _shapes(network: Mapping[str, Any], base: BaseFolder) -> dict[str, Shape] | None:
    if network.get("_class_name") == LLLITE_CLASS:
        return lllite_shapes_of(base, network["cond_emb_dim"], network["mlp_dim"])
    return controlnet_shapes(network, _hint(network, base))


def device_of(compute: Compute) -> str:
    """Where a training would be: cpu or cuda. PyTorch decides it; this looks whether it could see a GPU."""
    if compute.device != "auto":
        return compute.device.partition(":")[0]
    try:
        return "cuda" if NVIDIA.exists() and not version("torch").endswith("+cpu") else "cpu"
    except PackageNotFoundError:
        return "cpu"


def item_bytes(compute: Compute, device: str) -> int:
    """Of the numbers that are computed with."""
    precision = compute.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" else "fp32"
    return ITEM_BYTES[precision]


# --- what stays --------------------------------------------------------------------------------------------


def _count(shapes: Mapping[str, Shape]) -> int:
    return sum(map(prod, shapes.values()))


def _part_shapes(base: BaseFolder) -> dict[str, Mapping[str, Shape]] | None:
    """Of the base's networks in the order in which they are read; all of them stay in memory."""
    found: dict[str, Mapping[str, Shape]] = {}
    for part in base.row.networks:
        shapes = network_shapes(part, base.config(part))
        if shapes is None:
            return None
        found[part] = shapes
    return found


def _parts_bytes(
    base: BaseFolder, shapes: Mapping[str, Mapping[str, Shape]], compute: Compute, device: str
) -> dict[str, int]:
    """Each in the numbers that are computed with, but for a VAE that float16 cannot hold."""
    items = dict.fromkeys(shapes, item_bytes(compute, device))
    if compute.precision == "fp16" and base.has_wide_vae():
        items["vae"] = WIDE_BYTES
    return {part: items[part] * _count(of_part) for part, of_part in shapes.items()}


def _most_loading(base: BaseFolder, held: Mapping[str, int]) -> int:
    """While one is read its file lies in memory beside it, and so do those that were read before it."""
    stored = [sum(path.stat().st_size for path in base.weights(part).tensor_files) for part in held]
    return max(before + file for before, file in zip(accumulate(held.values()), stored, strict=True))


# --- what a step takes beside ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layer:
    """What one layer holds, with its weights' gradients, and its weights in the numbers that are computed with."""

    held: Held
    gradient_bytes: int = 0
    cast_bytes: int = 0

    @property
    def kept_bytes(self) -> int:
        """Until its backward."""
        return self.held.kept_bytes + (0 if self.held.again_bytes else self.cast_bytes)

    @property
    def moment_bytes(self) -> int:
        """For as long as its backward takes: what is computed again, and what goes in and comes out of one product."""
        again = self.held.again_bytes + self.cast_bytes if self.held.again_bytes else 0
        return again + 2 * self.held.widest_bytes


def _most(
    config: Config, base: BaseFolder, device: str, network: Mapping[str, Any], shapes: Mapping[str, Shape]
) -> tuple[int, int]:
    """Gradients, and what else there is beside them, when both together are most."""
    trained, frozen = (_pass(config, base, device, is_trained) for is_trained in (True, False))
    if network.get("_class_name") == LLLITE_CLASS:
        widths = network["cond_emb_dim"], network["mlp_dim"]
        pixels = config.optim.batch_size * (config.data.resolution or 0) ** 2
        holds = lllite_holds(base.config("unet"), lllite_places(base), *widths, frozen, pixels)
        layers = layers_of(list(holds), shapes, trained)
    else:
        layers = layers_of(list(controlnet_holds(network, _hint(network, base), trained)), shapes, trained)
    layers += [Layer(held) for held in decoder_holds(base.config("unet"), frozen)]
    gradients = sum(layer.gradient_bytes for layer in layers)
    encoding = _encoding_bytes(config, base, device)
    if device == "cpu":
        # The C library keeps what small tensors leave, and gives little of it to the gradients that come meanwhile.
        kept = sum(layer.kept_bytes for layer in layers)
        return gradients, max(kept + max(layer.moment_bytes for layer in layers), encoding - gradients)
    most = max(_moments(layers, gradients if config.optim.accumulation_steps > 1 else 0))
    return gradients, max(most, encoding) - gradients


def _moments(layers: Sequence[Layer], before_bytes: int) -> Iterator[int]:
    """What there is during the backward of each: all that was kept up to it, and the gradients from it on.

    Args:
        before_bytes: of gradients that there are already, to which those of this pass are added.
    """
    kept = accumulate(layer.kept_bytes for layer in layers)
    made = list(accumulate(layer.gradient_bytes for layer in reversed(layers)))[::-1]
    for layer, kept_bytes, made_bytes in zip(layers, kept, made, strict=True):
        gradients = before_bytes + layer.gradient_bytes if before_bytes else made_bytes
        yield kept_bytes + layer.moment_bytes + gradients


def _pass(config: Config, base: BaseFolder, device: str, is_trained: bool) -> Pass:
    resolution, batch, item = config.data.resolution or 0, config.optim.batch_size, item_bytes(config.compute, device)
    return Pass(
        batch=batch,
        places=batch * (resolution // base.vae_factor()) ** 2,
        item_bytes=item,
        text_length=_text_length(base),
        is_trained=is_trained,
        has_wide_norms=is_trained and device == "cuda" and item < WIDE_BYTES,
        is_recomputed=config.compute.gradient_checkpointing,
    )


def layers_of(holds: Sequence[Held], shapes: Mapping[str, Shape], of: Pass) -> list[Layer]:
    """Each tensor is of the layer that has most of its name."""
    gradients, casts = (dict.fromkeys((held.name for held in holds), 0) for _ in range(2))
    for name, shape in shapes.items():
        own = max((held.name for held in holds if name.startswith(held.name)), key=len)
        gradients[own] += WIDE_BYTES * prod(shape)
        if of.item_bytes < WIDE_BYTES and is_cast(name, shape):
            casts[own] += of.item_bytes * prod(shape)
    return [Layer(held, gradients[held.name], casts[held.name]) for held in holds]


def _encoding_bytes(config: Config, base: BaseFolder, device: str) -> int:
    """What the VAE takes for the pictures of a batch, before there is anything else of it."""
    vae, item = base.config("vae"), item_bytes(config.compute, device)
    width = (vae.get("encoder_block_out_channels") or vae.get("block_out_channels") or [64])[0]
    pixels = config.optim.batch_size * (config.data.resolution or 0) ** 2
    return PICTURES_IN_VAE[device] * int(width) * pixels * item


def _hint(network: Mapping[str, Any], base: BaseFolder) -> Sequence[int]:
    return network.get("conditioning_embedding_out_channels") or hint_channels(base)


def _text_length(base: BaseFolder) -> int:
    """Of what is heard, in tokens: every prompt is filled up to it."""
    positions = int(base.config(TEXT_ENCODERS[0]).get("max_position_embeddings", 77))
    path = base.path / base.row.tokenizers[0] / "tokenizer_config.json"
    longest = read_json(path).get("model_max_length", positions) if path.is_file() else positions
    return int(min(longest, positions))
