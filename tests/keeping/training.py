"""A small real training with an arena of its own: a network, fused AdamW, averaged weights, and their snapshots."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everstep.contracts import Draft
from everstep.keeping.arena import Arena, PlannedFile, plan_arena
from everstep.keeping.channel import Channel, Message
from everstep.keeping.link import Link
from everstep.keeping.revision import Revision
from everstep.keeping.settings import Settings
from everstep.keeping.snapshots import Snapshots, notes_bytes
from everstep.keeping.stateful import Layout

WEIGHTS, MOMENTS, AVERAGED = "weights.safetensors", "moments.safetensors", "averaged.safetensors"


class State:
    """A small network, fused AdamW with all its moments, and averaged weights: what a training keeps."""

    def __init__(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.step = self.images_seen = 0
        self.revision, self.metadata, self.exempt = Revision(), {}, frozenset[str]()
        self.revision.watch(optimizer)
        self.optimizers = (optimizer,)
        self.average = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{number}.{key}": value
            for number, state in enumerate(self.optimizer.state.values())
            for key, value in state.items()
            if isinstance(value, Tensor)
        }
        return {WEIGHTS: self.network.state_dict(), MOMENTS: moments, AVERAGED: self.average}

    def small_files(self) -> dict[str, bytes]:
        return {"a.json": b"{}"}


class Training:
    """The state, an arena of its own, and the snapshots between them."""

    def __init__(self, copying: str = "blocking", slots: int = 3, state: State | None = None, **settings: Any) -> None:
        torch.manual_seed(0)
        if state is None:
            network = torch.nn.Sequential(torch.nn.Linear(40, 300), torch.nn.Linear(300, 7))
            state = State(network, torch.optim.AdamW(network.parameters(), fused=True))
            self.train_once(state)
        self.state, layout = state, Layout(state)
        files = [PlannedFile(image.path, image.size_bytes) for image in layout.images]
        plan = plan_arena(Path("/nowhere"), files, notes_bytes(layout, 100), slots)
        descriptor = os.memfd_create("test")
        os.ftruncate(descriptor, plan.size_bytes)
        self.arena = Arena.create(descriptor, plan)
        self.keeper, trainer = Channel.pair()
        self.link = Link(trainer)
        self.said: list[str] = []
        kept = Settings(copying=copying, **settings)  # type: ignore[arg-type]
        self.snapshots = Snapshots(self.arena, state, layout, self.link, kept, self.said.append)

    @staticmethod
    def train_once(state: State) -> None:
        state.network(torch.randn(8, 40)).square().mean().backward()
        state.optimizer.step()
        state.optimizer.zero_grad()
        state.step += 1
        with state.revision.changing():
            for name, parameter in state.network.named_parameters():
                state.average[name].lerp_(parameter.detach(), 0.5)

    def train(self) -> None:
        self.train_once(self.state)

    def take(self, claimed: bool = False) -> int:
        step = self.state.step
        return self.snapshots.take(Draft(step, step, "interval", None, (), {"a.json": b"{}"}, {}), claimed)

    def close(self) -> None:
        self.snapshots.close()
        self.keeper.close()
        self.link.close()

    def heard(self) -> list[Message]:
        """What the keeper was told."""
        told = []
        while self.keeper.is_waiting():
            told.append(self.keeper.receive())
        return told

    def content(self) -> dict[str, dict[str, bytes]]:
        return {
            path: {name: bytes_of(tensor) for name, tensor in named.items()}
            for path, named in self.state.tensors().items()
        }


def bytes_of(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
