"""What is loaded is what was committed, from the file and from its image in memory, whatever the tensors are."""

import math
import mmap
import os
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from everstep.contracts import Draft, TensorFile
from everstep.errors import DamageFound
from everstep.versions import Run, Version, ahead, read_tensors, verify
from everstep.versions.tensorfile import ITEM_BYTES
from everstep.versions.torch import DTYPES, TorchTensor, fill, fill_from_image
from everstep.versions.verify import load_digests

SHAPES = ((), (1,), (0,), (2, 0, 3), (3, 5), (41,))
PIECE_BYTES = 1 << 14
MIXED = "training/mixed.safetensors"
Fill = Callable[[dict[str, Tensor], Version, str], None]


def image_of(version: Version, file: str, behind: bytes = b"behind it") -> memoryview:
    """A file of a version as it would lie in memory, with something behind it."""
    content = (version.path / file).read_bytes()
    memory = memoryview(mmap.mmap(-1, len(content) + len(behind)))
    memory[:] = content + behind
    return memory


def from_image(live: dict[str, Tensor], version: Version, file: str) -> None:
    fill_from_image(live, image_of(version, file), load_digests(version.path, version.files)[file])


@pytest.fixture(params=[fill, from_image], ids=["from the file", "from memory"])
def any_fill(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Fill:
    monkeypatch.setattr(ahead, "PIECE_BYTES", PIECE_BYTES)  # so that tensors span pieces, and pieces hold several
    filling: Fill = request.param
    return filling


def bits(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Any bits that the dtype can have, numbers that are none among them."""
    count = math.prod(shape) * dtype.itemsize
    most = 2 if dtype is torch.bool else 256
    drawn = torch.randint(0, most, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return drawn.view(dtype).reshape(shape)


def every_kind(seed: int) -> dict[str, Tensor]:
    """Tensors of all dtypes and of odd shapes, one larger than several pieces."""
    made = {
        f"{name}.{'x'.join(map(str, shape))}": bits(shape, dtype, seed)
        for name, dtype in DTYPES.items()
        for shape in SHAPES
    }
    return {**made, "large": bits((5 * PIECE_BYTES + 3,), torch.uint8, seed)}


def committed(run: Run, tensors: dict[str, Tensor]) -> Version:
    files = [TensorFile(MIXED, {name: TorchTensor(tensor) for name, tensor in tensors.items()})]
    return run.commit(Draft(30, 1, "interval", None, files, {}, {}))


def same_bits(found: Tensor, meant: Tensor) -> bool:
    as_bytes = (t.contiguous().reshape(-1).view(torch.uint8) for t in (found, meant))
    return found.dtype == meant.dtype and found.shape == meant.shape and torch.equal(*as_bytes)


def test_every_dtype_that_a_file_may_have_is_known() -> None:
    assert DTYPES.keys() == ITEM_BYTES.keys()
    assert all(DTYPES[name].itemsize == size for name, size in ITEM_BYTES.items())


def test_every_dtype_and_shape_comes_back_bit_for_bit(run: Run, any_fill: Fill) -> None:
    meant = every_kind(1)
    version = committed(run, meant)
    assert verify(version) == []
    live = every_kind(2)
    before = {name: tensor.data_ptr() for name, tensor in live.items()}
    any_fill(live, version, MIXED)
    assert all(same_bits(live[name], tensor) for name, tensor in meant.items())
    assert {name: tensor.data_ptr() for name, tensor in live.items()} == before
    loaded = read_tensors(version, MIXED)
    assert all(loaded[name].shape == tuple(tensor.shape) for name, tensor in meant.items())


def test_tensors_that_are_not_contiguous_are_filled_too(run: Run, any_fill: Fill) -> None:
    meant = {"a": torch.randn(4, 6, 3, 3), "b": torch.randn(6, 4)}
    version = committed(run, meant)
    live = {"a": torch.zeros(4, 6, 3, 3).to(memory_format=torch.channels_last), "b": torch.zeros(4, 6).t()}
    any_fill(live, version, MIXED)
    assert all(torch.equal(live[name], tensor) for name, tensor in meant.items())


@pytest.mark.parametrize(
    ("live", "said"),
    [
        ({"a": torch.zeros(3)}, "holds b, which this network has not"),
        ({"a": torch.zeros(3), "b": torch.zeros(4), "c": torch.zeros(1)}, r"lacks 1 tensors \(first: c\)"),
        ({"a": torch.zeros(3), "b": torch.zeros(2, 2)}, r"holds b as \(4,\), but \(2, 2\) was expected"),
    ],
)
def test_what_does_not_fit_is_named(run: Run, any_fill: Fill, live: dict[str, Tensor], said: str) -> None:
    version = committed(run, {"a": torch.ones(3), "b": torch.ones(4)})
    with pytest.raises(DamageFound, match=said):
        any_fill(live, version, MIXED)


def test_a_dtype_is_converted_from_a_file_and_refused_from_memory(run: Run) -> None:
    version = committed(run, {"a": torch.full((3,), 1.5)})
    live = {"a": torch.zeros(3, dtype=torch.bfloat16)}
    fill(live, version, MIXED)
    assert live["a"].tolist() == [1.5, 1.5, 1.5]
    with pytest.raises(DamageFound, match="holds a as F32, but BF16 was expected"):
        from_image(live, version, MIXED)


def test_every_flipped_byte_of_an_image_is_found(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    meant = {"a": bits((3,), torch.float32, 1), "b": bits((5,), torch.int16, 2), "none": torch.zeros(0)}
    version = committed(run, meant)
    digests = load_digests(version.path, version.files)[MIXED]
    image = image_of(version, MIXED, b"")
    start = 8 + int.from_bytes(image[:8], "little")
    spaces = [place for place in range(8, start) if image[place] == ord(" ")]
    for place in [*range(spaces[0]), *range(start, len(image))]:
        image[place] ^= 1
        live = {name: torch.zeros_like(tensor) for name, tensor in meant.items()}
        try:
            fill_from_image(live, image, digests)
        except DamageFound as damage:
            assert "in memory" in str(damage)
        else:
            pytest.fail(f"byte {place} was flipped and nobody saw it")
        image[place] ^= 1
    fill_from_image(live, image, digests)


def test_an_image_that_is_cut_short_or_empty_is_refused(run: Run) -> None:
    version = committed(run, {"a": torch.ones(3)})
    digests = load_digests(version.path, version.files)[MIXED]
    image = image_of(version, MIXED, b"")
    for length in (0, 7, 8, 100, len(image) - 1):
        with pytest.raises(DamageFound, match="The state in memory"):
            fill_from_image({"a": torch.zeros(3)}, image[:length], digests)


def test_several_pieces_are_on_their_way_while_one_is_looked_at(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "PIECE_BYTES", PIECE_BYTES)
    version = committed(run, {"a": torch.arange(10 * PIECE_BYTES // 8)})
    both, real, most = threading.Barrier(2, timeout=20), os.preadv, 0

    def together(descriptor: int, buffers: list[memoryview], place: int) -> int:
        nonlocal most
        if len(buffers[0]) == PIECE_BYTES and most < 6:
            most += 1
            both.wait()  # breaks unless a second read comes while this one is not over
        return real(descriptor, buffers, place)

    monkeypatch.setattr(ahead.os, "preadv", together)
    live = {"a": torch.zeros(10 * PIECE_BYTES // 8, dtype=torch.int64)}
    fill(live, version, MIXED)
    assert torch.equal(live["a"], torch.arange(10 * PIECE_BYTES // 8))
    assert most == 6
