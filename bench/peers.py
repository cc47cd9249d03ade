"""What trainers use today to save the same state: how long the training thread waits, and until it is durable."""

import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from everstep.train.state import TrainState


def measure_peers(state: TrainState, folder: Path) -> list[tuple[str, float | None, float | None]]:
    rows: list[tuple[str, float | None, float | None]] = []
    for name, measure in PEERS.items():
        gc.collect()
        place = folder / "peer"
        place.mkdir()
        try:
            stall, durable = measure(state, place)
        except ImportError as error:
            print(f"{name}: left out ({error})")
            continue
        finally:
            shutil.rmtree(place)
        print(f"{name}: {stall:.2f} s", flush=True)
        rows.append((name, stall, durable))
    return rows


def state_dict(state: TrainState) -> dict[str, Any]:
    return {"model": state.controlnet.state_dict(), "optimizer": state.optimizer.state_dict()}


def torch_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    return twice(lambda: torch.save(state_dict(state), folder / "all.pt"), folder)


def safetensors_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    from safetensors.torch import save_file

    flat = {f"{path}:{name}": tensor for path, live in state.tensors().items() for name, tensor in live.items()}
    return twice(lambda: save_file(flat, folder / "all.safetensors"), folder)


def dcp_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    from torch.distributed.checkpoint.state_dict_saver import save

    return twice(lambda: save(state_dict(state), checkpoint_id=folder / "dcp", no_dist=True), folder)


def dcp_async_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict_saver import async_save

    if not dist.is_initialized():
        dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
    stalls, ends = [], []
    for _ in range(2):
        began = time.perf_counter()
        saving = async_save(state_dict(state), checkpoint_id=folder / "dcp")
        stalls.append(time.perf_counter() - began)
        saving.result()  # type: ignore[union-attr]
        ends.append(time.perf_counter() - began)
    dist.destroy_process_group()
    return min(stalls), min(ends)


def accelerate_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    accelerator._models, accelerator._optimizers = [state.controlnet], [state.optimizer]
    return twice(lambda: accelerator.save_state(str(folder / "state")), folder)


def lightning_save(state: TrainState, folder: Path) -> tuple[float, float | None]:
    from lightning.pytorch.plugins.io import TorchCheckpointIO

    content = {"state_dict": state.controlnet.state_dict(), "optimizer_states": [state.optimizer.state_dict()]}
    return twice(lambda: TorchCheckpointIO().save_checkpoint(content, folder / "all.ckpt"), folder)


def twice(save: Callable[[], object], folder: Path) -> tuple[float, float | None]:
    """The quicker of two, and until durable with a sync of all that was written, which none of them does itself."""
    stalls, ends = [], []
    for _ in range(2):
        began = time.perf_counter()
        save()
        stalls.append(time.perf_counter() - began)
        for path in folder.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        ends.append(time.perf_counter() - began)
    return min(stalls), min(ends)


PEERS = {
    "torch.save": torch_save,
    "safetensors save_file": safetensors_save,
    "torch.distributed.checkpoint save": dcp_save,
    "torch.distributed.checkpoint async_save": dcp_async_save,
    "accelerate save_state": accelerate_save,
    "Lightning's checkpoint": lightning_save,
}
