"""What the folder of a base is made of, in diffusers layout: its small files, and its tensors out of the one file.

Never imports torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from everstep.contracts import Counted, TensorFile
from everstep.errors import DamageFound, UserError
from everstep.exchange.keys import Link
from everstep.models.foreign import not_started
from everstep.models.numbers import Place, Refused
from everstep.models.one_file import OneFile
from everstep.models.parts import PROJECTION
from everstep.models.vocabulary import as_json, tokenizer_files, vocabulary_of
from everstep.models.weights import DIFFUSERS, TEXT_ENCODERS, TRANSFORMERS
from everstep.plain_files import open_plain
from everstep.versions import fsops
from everstep.versions.tensorfile import ITEM_BYTES, TensorImage, read_digests


def configs_of(found: OneFile) -> dict[str, bytes]:
    """All that is neither tensor nor word, by its place."""
    files = {f"{part}/config.json": as_json(config) for part, config in found.configs.items()}
    files["scheduler/scheduler_config.json"] = as_json(found.scheduler)
    files["model_index.json"] = as_json(_index(found))
    return files


def small_files(found: OneFile) -> dict[str, bytes]:
    """The same with the tokenizers. Raises: UserError if the vocabulary cannot be had."""
    words, files = vocabulary_of(found.path), configs_of(found)
    positions = int(found.configs["text_encoder"]["max_position_embeddings"])
    for tokenizer, pad in found.whole.pads.items():
        files |= {f"{tokenizer}/{name}": held for name, held in tokenizer_files(words, positions, pad).items()}
    return files


def _index(found: OneFile) -> dict[str, Any]:
    """What diffusers loads a folder as."""
    parts: dict[str, Any] = {part: ["transformers", "CLIPTokenizer"] for part in found.whole.pads}
    for part, config in found.configs.items():
        is_text = part in TEXT_ENCODERS
        name = config["architectures"][0] if is_text else config["_class_name"]
        parts[part] = ["transformers" if is_text else "diffusers", name]
    parts["scheduler"] = ["diffusers", found.scheduler["_class_name"]]
    return {**found.whole.pipeline, **parts}


def tensor_bytes(found: OneFile) -> int:
    links = [link for names in found.parts.values() for link in names.links]
    return sum(Packed(link, 0, found.held.tensors[link.theirs]).all_bytes for link in links)


def write_networks(found: OneFile, staging: Path, said: Counted) -> dict[str, int]:
    """Returns the size of each file. Raises: UserError; OSError."""
    all_bytes, done = tensor_bytes(found), 0

    def passed(piece_bytes: int) -> None:
        nonlocal done
        done += piece_bytes
        said(min(done, all_bytes), all_bytes)  # headers pass, too

    try:
        with open_plain(found.path) as file:  # what it raises while the disk is written to is the disk's
            sizes = {}
            for part in found.parts:
                name = f"{part}/{(TRANSFORMERS if part in TEXT_ENCODERS else DIFFUSERS)[0]}.safetensors"
                sizes[name] = _write_network(staging / name, _tensors(found, part, file), passed)
            return sizes
    except Refused as refused:
        raise not_started(found.path, refused) from None


def _tensors(found: OneFile, part: str, file: BinaryIO) -> dict[str, "Packed"]:
    prefix = "text_model." if part in TEXT_ENCODERS else ""
    return {
        name if name == PROJECTION else f"{prefix}{name}": Packed(link, number, found.held.tensors[link.theirs], file)
        for link in found.parts[part].links
        for number, name in enumerate(link.ours)
    }


def _write_network(path: Path, tensors: Mapping[str, "Packed"], passed: Callable[[int], None]) -> int:
    """Write one file, and read it back. Raises: UserError if it is another then; Refused; OSError."""
    image = TensorImage(TensorFile(path.name, tensors, {"format": "pt"}))
    fsops.write_file(path, _passing(image.pieces(), passed), image.size_bytes)
    wrong = (f"{path.parent.name}/{path.name} is another when it is read back: the disk of {path.parents[2]} cannot "
             "be trusted. Nothing was started.")  # fmt: skip
    try:
        with read_digests(path) as (_, raw, digests):
            if raw != image.header or dict(digests) != image.digests:
                raise UserError(wrong)
    except DamageFound:
        raise UserError(wrong) from None
    return image.size_bytes


def _passing(pieces: Iterator[memoryview | bytes], passed: Callable[[int], None]) -> Iterator[memoryview | bytes]:
    for piece in pieces:
        yield piece
        passed(len(piece))


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor of ours in their file, read when its bytes are asked for.

    Args:
        number: among those of ours that are one of theirs.
    """

    link: Link
    number: int
    place: Place
    file: BinaryIO | None = None

    @property
    def dtype(self) -> str:
        return self.place.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.link.our_shapes[self.number]

    @property
    def all_bytes(self) -> int:
        """Of theirs."""
        return self.place.items * ITEM_BYTES[self.dtype]

    def buffer(self) -> memoryview:
        """Raises: Refused if the file ends in it; OSError."""
        import numpy as np  # not at the top: verbs that only look load no numbers

        assert self.file is not None
        theirs = self.place.words(self.file).reshape(self.link.their_shape)
        ours = self.link.operation.back([theirs], self.link.our_shapes, np.concatenate)
        return np.ascontiguousarray(ours[self.number]).reshape(-1).view(np.uint8).data
