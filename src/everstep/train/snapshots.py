"""Copies of the live state into the arena, sealed when they are whole and healthy.

The trainer's own work is one memory copy, taken while it waits or during the next forward and backward; digests,
health and the seal are made in a second thread. Knows nothing of versions on disk: a claimed slot is the keeper's.
"""

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from everstep.config.schema import Keeper
from everstep.contracts import Draft, Report, TensorFile
from everstep.errors import NotFinite
from everstep.keeping.arena import Arena, Slot, SlotState
from everstep.keeping.channel import Channel, Gone
from everstep.keeping.memory import release
from everstep.keeping.sealed import SNAPSHOT, slot_notes
from everstep.train.pace import Cost, Pace
from everstep.train.state import TrainState
from everstep.versions import digest
from everstep.versions.tensorfile import TensorImage

DIGEST_BYTES = 64  # of one digest in JSON, with its name's quotes


def open_snapshots(
    state: TrainState, small_bytes: int, channel: Channel, settings: Keeper, report: Report
) -> "Snapshots | None":
    """Ask the keeper for an arena that fits this state. None where no memory can be had, or none is wanted."""
    files = state.tensor_files()
    images = [TensorImage(file) for file in files]
    names = sum(len(name) + DIGEST_BYTES for image in images for name in image.places)
    channel.send(
        "plan", files=[[image.path, image.size_bytes] for image in images], notes_bytes=2 * small_bytes + names
    )
    answer = channel.receive()
    report(f"Snapshots: {answer['where']}.")
    if "descriptor" not in answer:
        return None
    arena = Arena.attach(answer["descriptor"], Path(answer["path"]) if answer["path"] else None)
    return Snapshots(arena, files, state.tensors(), state.optimizer, channel, settings, report)


class Snapshots:
    """The trainer's side of an arena."""

    def __init__(
        self,
        arena: Arena,
        files: list[TensorFile],
        live: Mapping[str, Mapping[str, Tensor]],
        optimizer: torch.optim.Optimizer,
        channel: Channel,
        settings: Keeper,
        report: Report,
    ) -> None:
        """
        Args:
            files: the version's tensor files, laid out as the arena's plan has them.
            live: the same tensors, by file and name, where training changes them in place.
            settings: how often, and in which way.
        """
        self._arena, self._channel, self._settings, self._report = arena, channel, settings, report
        self._images = [TensorImage(file) for file in files]
        self._weights = files[0].path
        self._sources = [live[image.path][name] for image in self._images for name in image.places]
        self._targets = [self._views(slot, live) for slot in arena.slots]
        if any(source.is_cuda for source in self._sources):
            self._pin()
        self._generation = max(slot.generation for slot in arena.slots)
        self._worker = ThreadPoolExecutor(1, "everstep-snapshot")
        self._copying: threading.Event | torch.cuda.Event | None = None
        self._sealing: Future[None] | None = None
        self._is_cuda = any(source.is_cuda for source in self._sources)
        self._stream = torch.cuda.Stream() if self._is_cuda else None  # type: ignore[no-untyped-call]
        self._pace = Pace(settings, self._modes(optimizer, settings.copying))
        self._cost = Cost(self._pace.mode)
        self._hook = optimizer.register_step_pre_hook(lambda *_: self._let_step())
        self.last_step = -1  # of the newest copy
        self.sealed_step: int | None = None  # of the newest whole state in memory
        self.fault: NotFinite | None = None

    def _pin(self) -> None:
        """Let the GPU write into the slots by itself; without it a copy beside training is none."""
        for slot in self._arena.slots:
            for image in self._images:
                memory = torch.frombuffer(slot.padded_image(image.path), dtype=torch.uint8)
                runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
                failed = runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
                if int(failed):
                    self._report(f"The memory of snapshots could not be pinned ({failed}); copies take longer.")
                    return

    def _modes(self, optimizer: torch.optim.Optimizer, asked: str) -> tuple[str, ...]:
        """The ways to copy that can be taken here."""
        why = _why_not_beside(optimizer)
        if why is not None and asked == "background":
            self._report(f"Snapshots are copied while training waits: {why}.")
        if why is not None:
            return ("blocking",)
        if asked != "auto":
            return (asked,)
        return ("background",) if self._is_cuda else ("blocking", "background")

    def _views(self, slot: Slot, live: Mapping[str, Mapping[str, Tensor]]) -> list[Tensor]:
        """Write the headers, once and for all, and lay tensors over the rest of the slot's images."""
        views = []
        for image in self._images:
            memory = slot.image(image.path)
            memory[: len(image.header)] = image.header
            for name, place in image.places.items():
                source = live[image.path][name]
                begin = len(image.header) + place.begin
                flat = torch.frombuffer(memory, dtype=source.dtype, count=source.numel(), offset=begin)
                views.append(flat.view(source.shape))
        return views

    # --- when ----------------------------------------------------------------------------------------------

    def is_due(self, step: int) -> bool:
        """Whether to take one after this step; asked once after every step."""
        return self._pace.is_due(step - self.last_step) and not self.is_busy

    @property
    def generation(self) -> int:
        """How many copies were begun in this memory."""
        return self._generation

    @property
    def mode(self) -> str:
        """The way in which the next copy is made."""
        return self._pace.mode

    @property
    def is_busy(self) -> bool:
        """Whether one is being taken now."""
        return self._sealing is not None and not self._sealing.done()

    @property
    def is_full(self) -> bool:
        """Whether another version in the making would leave no slot for what comes after it."""
        claimed = sum(slot.state is SlotState.CLAIMED for slot in self._arena.slots)
        return claimed >= len(self._arena.slots) - 1

    # --- taking one ----------------------------------------------------------------------------------------

    def take(self, draft: Draft, claimed: bool, label: str | None = None) -> None:
        """Begin to copy the state as it is now. A claimed one is handed to the keeper, to become a version.

        Returns when the copy is made, or at once where it goes on beside; then the optimizer's next step waits for it.
        """
        began = time.perf_counter()
        self.wait()
        slot = self._slot()
        self._generation += 1
        slot.begin(self._generation)
        cost = self._cost = self._pace.begin()

        def seal(is_torn: bool) -> None:
            self._seal(slot, draft, claimed, label, is_torn, cost)

        targets = self._targets[slot.number]
        if self._stream is not None:
            self._copying = self._copy_on_stream(targets)
            self._sealing = self._worker.submit(self._seal_after, self._copying, seal)
        elif cost.mode == "background":
            self._copying = copied_event = threading.Event()
            self._sealing = self._worker.submit(self._copy_beside, targets, copied_event, cost, seal)
        else:
            for target, source in zip(targets, self._sources, strict=True):
                target.copy_(source.detach())
            self._sealing = self._worker.submit(seal, False)
        self.last_step = draft.step
        cost.stall_s += time.perf_counter() - began

    def beat(self, step: int) -> None:
        """Let the keeper know that the trainer is alive."""
        self._arena.beat(step)

    def wait(self) -> None:
        """Until the last one is sealed. Raises: what went wrong in it."""
        if self._sealing is not None:
            self._sealing.result()

    @property
    def facts(self) -> dict[str, Any]:
        """For a version that was saved past the arena: all that lies there is older."""
        return {SNAPSHOT: {"arena": self._arena.plan.nonce, "generation": self._generation}}

    def release(self) -> None:
        """Give the memory back in the keeper's stead."""
        self.close()
        release(self._arena)

    def close(self) -> None:
        """Wait, and let the optimizer go."""
        self._worker.shutdown()
        self._hook.remove()
        self._targets.clear()

    def _slot(self) -> Slot:
        """The oldest slot that is not the keeper's; the newest whole state stays where there are others."""
        while True:
            free = [slot for slot in self._arena.slots if slot.state is not SlotState.CLAIMED]
            newest = self._arena.newest()
            others = [slot for slot in free if slot is not newest]
            if free:
                return min(others or free, key=lambda slot: (slot.is_whole, slot.generation))
            time.sleep(0.001)

    def _copy_beside(
        self, targets: list[Tensor], copied: threading.Event, cost: Cost, seal: Callable[[bool], None]
    ) -> None:
        began, counters, is_torn = time.thread_time(), self._counters(), True
        try:
            for target, source in zip(targets, self._sources, strict=True):
                np.copyto(_bytes(target), _bytes(source.detach()))
            is_torn = self._counters() != counters
        finally:
            copied.set()
        cost.beside_s += time.thread_time() - began
        seal(is_torn)

    def _copy_on_stream(self, targets: list[Tensor]) -> torch.cuda.Event:
        """On a stream of its own, behind what was computed so far; the next step waits for it on the stream."""
        assert self._stream is not None
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for target, source in zip(targets, self._sources, strict=True):
                target.copy_(source.detach(), non_blocking=self._pace.mode == "background")
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return copied

    @staticmethod
    def _seal_after(copied: torch.cuda.Event, seal: Callable[[bool], None]) -> None:
        copied.synchronize()
        seal(False)

    def _let_step(self) -> None:
        """Before the optimizer changes anything: until the copy beside has been made."""
        copying, self._copying = self._copying, None
        if isinstance(copying, torch.cuda.Event):
            torch.cuda.current_stream().wait_event(copying)
        elif isinstance(copying, threading.Event):
            began = time.perf_counter()
            copying.wait()
            self._cost.stall_s += time.perf_counter() - began

    # --- sealing, in the second thread ---------------------------------------------------------------------

    def _seal(self, slot: Slot, draft: Draft, claimed: bool, label: str | None, is_torn: bool, cost: Cost) -> None:
        began = time.thread_time()
        if is_torn:
            slot.set_state(SlotState.FREE)
            self._pace.only("blocking")
            self._report(f"The snapshot of step {draft.step:,} was refused: the state changed while it was copied.")
            return
        sick = self._not_finite(slot)
        if sick is not None:
            slot.set_state(SlotState.FREE)
            self.fault = NotFinite(f"{sick} is not finite after step {draft.step:,}.")
            return
        digests = {
            image.path: {
                name: digest(slot.image(image.path)[len(image.header) + place.begin : len(image.header) + place.end])
                for name, place in image.places.items()
            }
            for image in self._images
        }
        slot.seal(slot_notes(draft, digests, label), claimed)
        self.sealed_step = draft.step
        cost.beside_s += time.thread_time() - began
        self._pace.ended()
        if claimed:
            try:
                self._channel.send("sealed", slot=slot.number)
            except Gone:
                return  # the loop finds out by itself

    def _counters(self) -> list[int]:
        """PyTorch counts the changes in place of every tensor."""
        return [source._version for source in self._sources]

    def _not_finite(self, slot: Slot) -> str | None:
        """The first weight that holds something that is no number."""
        image = self._images[0]
        for (name, _), view in zip(image.places.items(), self._targets[slot.number], strict=False):
            if not view.is_floating_point():
                continue
            flat = view.reshape(-1)
            values = flat.float().numpy() if flat.dtype == torch.bfloat16 else flat.numpy()
            with np.errstate(all="ignore"):
                is_clear = np.isfinite(values.sum())  # one pass; a sum that overflows is looked at more closely
            if not is_clear and not (np.isfinite(values.min()) and np.isfinite(values.max())):
                return f"{name} in {self._weights}"
        return None


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _why_not_beside(optimizer: torch.optim.Optimizer) -> str | None:
    """Why a copy must not go on during the next forward and backward, or None where it may."""
    if any(group.get("capturable") for group in optimizer.param_groups):
        return "steps may be captured as graphs, in which nothing can wait"
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(getattr(parameter, "_post_accumulate_grad_hooks", None) for parameter in parameters):
        return "the optimizer steps within the backward pass"
    return None
