"""Copies of the live tensors into a slot: while training waits, in a thread beside it, or on a stream of the GPU.

Each way tells how far it has come, so that the disk can be written behind it.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.keeping.arena import Slot
from everstep.keeping.stateful import Layout, Share
from everstep.versions.torch import part_of

PART_BYTES = 4 << 20  # copied at once beside training: still in the processor's cache when it is digested
GROUP_BYTES = 32 << 20  # copied at once while training waits, and on a stream between two marks
SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

Copied = Callable[[int], None]  # so many bytes of the slot's files are there


@dataclass(slots=True)
class Part:
    """Tensors, or a piece of one, that are copied together."""

    targets: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    size_bytes: int = 0
    end: int = 0  # bytes of the slot's files that are there once it is copied


class Sources:
    """The live tensors of a layout, ready to be copied again and again as long as they stay where they are."""

    def __init__(self, layout: Layout, tensors: Sequence[Tensor], share: Share) -> None:
        """
        Args:
            tensors: all of them, in the layout's order.
            share: which of them are copied here.
        """
        self._parts_of = [part_of(tensor) for tensor in tensors]
        self.tensors, self._layout, self._share = [part.tensor for part in self._parts_of], layout, share
        self.places = [tensor.data_ptr() for tensor in self.tensors]
        self.is_cuda = any(tensor.is_cuda for tensor in self.tensors)
        self.is_cpu = all(tensor.device.type == "cpu" for tensor in self.tensors)
        self._groups: dict[int, list[Part]] = {}
        self._parts: dict[int, list[Part]] = {}

    def are_at(self, tensors: Sequence[Tensor]) -> bool:
        """Whether these are the same tensors in the same memory."""
        return self.places == [part_of(tensor).tensor.data_ptr() for tensor in tensors]

    def counters(self) -> list[int]:
        """PyTorch counts changes in place; with `Revision`, which sees what these do not, no change goes unnoticed."""
        return [tensor._version for tensor in self.tensors]

    # --- while training waits -------------------------------------------------------------------------------

    def copy(self, slot: Slot, copied: Copied) -> None:
        """With all threads that PyTorch has."""
        for group in self._grouped(slot):
            torch._foreach_copy_(group.targets, group.sources)
            copied(group.end)

    def copy_on_stream(self, slot: Slot, stream: torch.cuda.Stream) -> list[tuple[torch.cuda.Event, int]]:
        """Behind what was computed so far; returns marks, and how much is there when each has passed."""
        stream.wait_stream(torch.cuda.current_stream())
        marks = []
        with torch.cuda.stream(stream):
            for group in self._grouped(slot):
                for target, source in zip(group.targets, group.sources, strict=True):
                    target.copy_(source, non_blocking=True)
                mark = torch.cuda.Event()  # type: ignore[no-untyped-call]
                mark.record(stream)
                marks.append((mark, group.end))
        return marks

    def _grouped(self, slot: Slot) -> list[Part]:
        if slot.number not in self._groups:
            self._groups[slot.number] = list(self._make_groups(slot))
        return self._groups[slot.number]

    def _make_groups(self, slot: Slot) -> Iterator[Part]:
        group = Part()
        for target, source, end in self._targets(slot):
            group.targets.append(target)
            group.sources.append(source)
            group.size_bytes += target.numel() * target.element_size()
            group.end = end
            if group.size_bytes >= GROUP_BYTES:
                yield group
                group = Part()
        if group.targets:
            yield group

    # --- beside training ------------------------------------------------------------------------------------

    def copy_beside(self, slot: Slot, copied: Copied) -> None:
        """In the calling thread alone, which holds no lock of the interpreter while it copies.

        Args:
            copied: looks at what has just been copied, too, while it is still in the cache.
        """
        for part in self._parted(slot):
            for target, source in zip(part.targets, part.sources, strict=True):
                np.copyto(target, source)
            copied(part.end)

    def _parted(self, slot: Slot) -> list[Part]:
        if slot.number not in self._parts:
            self._parts[slot.number] = list(self._make_parts(slot))
        return self._parts[slot.number]

    def _make_parts(self, slot: Slot) -> Iterator[Part]:
        part = Part()
        for target, source, end in self._targets(slot):
            same_size = SAME_SIZE[target.element_size()]
            to, of = target.view(same_size).numpy(), source.view(same_size).numpy()
            if of.nbytes > PART_BYTES and source.is_contiguous():
                if part.targets:
                    yield part
                yield from _slices(to.reshape(-1), of.reshape(-1), end)
                part = Part()
                continue
            part.targets.append(to)
            part.sources.append(of)
            part.size_bytes += of.nbytes
            part.end = end
            if part.size_bytes >= PART_BYTES:
                yield part
                part = Part()
        if part.targets:
            yield part

    def _targets(self, slot: Slot) -> Iterator[tuple[Tensor, Tensor, int]]:
        """A tensor laid over its place in the slot, the live one, and the slot's bytes up to its end."""
        number, before = -1, 0
        for image in self._layout.images:
            memory = slot.image(image.path)
            for place in image.places.values():
                number += 1
                source, first = self._parts_of[number].tensor, self._parts_of[number].first_item
                if not source.numel() or not self._share.has(number):
                    continue
                begin = len(image.header) + place.begin + first * source.element_size()
                flat = torch.frombuffer(memory, dtype=source.dtype, count=source.numel(), offset=begin)
                end = before + begin + source.numel() * source.element_size()
                yield flat.view(source.shape), source, end
            before += image.size_bytes

    def forget(self) -> None:
        """Nothing looks at any slot any more."""
        self._groups.clear()
        self._parts.clear()


def _slices(target: Any, source: Any, end: int) -> Iterator[Part]:
    items = PART_BYTES // target.itemsize
    for begin in range(0, target.size, items):
        to, of = target[begin : begin + items], source[begin : begin + items]
        yield Part([to], [of], to.nbytes, end - (target.size - begin - to.size) * target.itemsize)


def follow(marks: list[tuple[torch.cuda.Event, int]], look: Copied) -> None:
    """Behind the copies that a GPU makes."""
    for mark, end in marks:
        mark.synchronize()
        look(end)


def write_headers(layout: Layout, slot: Slot) -> None:
    """Once and for all: nothing in them changes from step to step."""
    for image in layout.images:
        slot.image(image.path)[: len(image.header)] = image.header


class Pins:
    """Slots that a GPU may write into by itself; without them a copy beside training is none."""

    def __init__(self, layout: Layout, slots: Sequence[Slot], report: Callable[[str], None]) -> None:
        self._pinned: list[int] = []
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        for slot in slots:
            for image in layout.images:
                memory = torch.frombuffer(slot.padded_image(image.path), dtype=torch.uint8)
                failed = int(runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
                if failed:
                    report(f"The memory of snapshots could not be pinned ({failed}); copies take longer.")
                    return
                self._pinned.append(memory.data_ptr())

    def release(self) -> None:
        """Memory that is still pinned when it is given back stays taken until the process ends."""
        runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        for address in self._pinned:
            runtime.cudaHostUnregister(address)
        self._pinned.clear()


class Barrier:
    """The optimizer's side of a copy that goes on beside it: its next step waits here."""

    def __init__(self) -> None:
        self._copying: threading.Event | torch.cuda.Event | None = None
        self.stall_s = 0.0  # of the copy that was waited for last

    def on(self, copying: "threading.Event | torch.cuda.Event | None") -> None:
        self._copying, self.stall_s = copying, 0.0

    def __call__(self) -> None:
        """Before anything changes: until the copy has been made. On a GPU only its stream waits."""
        copying, self._copying = self._copying, None
        if isinstance(copying, torch.cuda.Event):
            torch.cuda.current_stream().wait_event(copying)
        elif copying is not None:
            began = time.perf_counter()
            copying.wait()
            self.stall_s = time.perf_counter() - began
