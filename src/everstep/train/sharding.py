"""What of the networks a rank holds, and where: all on a GPU of its own; or (FSDP2) rows of every parameter, of which
blocks are gathered when they are needed.

Source: Zhao et al. 2023, "PyTorch FSDP"; torch.distributed.fsdp.fully_shard.
"""

import os
from collections.abc import Iterator

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from everstep.config.schema import Compute
from everstep.errors import UserError
from everstep.keeping.team import Team
from everstep.models.arithmetic import arithmetic
from everstep.models.family import Family
from everstep.models.lllite import ControlNetLLLite
from everstep.models.optimizers import ADAMW
from everstep.models.registry import open_family
from everstep.train.ready import Ready

# Of a network's parameters: a block with fewer is gathered with whatever is gathered at the beginning.
WORTH_ITS_OWN = 1 / 50


def family_of(ready: Ready, team: Team | None) -> Family:
    """The base in memory."""
    compute = ready.config.compute
    if team is None:
        return open_family(ready.base, arithmetic(compute), compute)
    compute = compute.model_copy(update={"device": device_here(compute)})
    return open_family(ready.base, arithmetic(compute, compute.parallel == "fsdp", team.size), compute)


def device_here(compute: Compute) -> str:
    """Each rank has a GPU of its own. Raises: UserError where there are not as many."""
    has_cuda = compute.device == "cuda" or (compute.device == "auto" and torch.cuda.is_available())
    if compute.device.startswith("cuda:"):
        raise UserError(f"compute.device is {compute.device}, but several ranks need a GPU each: cuda, or auto.")
    local_rank = int(os.environ["LOCAL_RANK"])
    if has_cuda and local_rank >= torch.cuda.device_count():
        raise UserError(
            f"compute.ranks asks for a GPU more than the {torch.cuda.device_count()} that PyTorch sees. Nothing was "
            "trained; --ranks auto takes all there are."
        )
    return f"cuda:{local_rank}" if has_cuda else "cpu"


def share_out(network: nn.Module) -> None:
    """Keep this rank's rows only, on its own device. All ranks have to call it, with the same network."""
    mesh = _mesh()
    least = sum(parameter.numel() for parameter in network.parameters()) * WORTH_ITS_OWN
    for block in _blocks(network):
        if sum(parameter.numel() for parameter in block.parameters()) >= least:
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What is computed one after the other."""
    for child in network.children():
        yield from child if isinstance(child, nn.ModuleList) else (child,)


def _mesh() -> DeviceMesh | None:
    """Rows are shared out within a machine, where exchange is quick and memory is one; machines hold the same."""
    ranks, here = distributed.get_world_size(), int(os.environ["LOCAL_WORLD_SIZE"])
    if ranks == here:
        return None
    if ranks % here:
        raise UserError("compute.parallel is fsdp, which needs as many ranks on each machine. Nothing was trained.")
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    return init_device_mesh(device, (ranks // here, here), mesh_dim_names=("machine", "rank"))


def refuse_unshared(network: nn.Module, optimizer: str, precision: str) -> None:
    """Raises: UserError for what cannot be shared out by rows."""
    why = None
    if isinstance(network, ControlNetLLLite):
        why = "an LLLite is small, and lives within the base's layers"
    elif optimizer != ADAMW:
        why = f"{optimizer} keeps more than a number for each of the network's"
    elif precision == "fp16":
        why = "fp16 scales losses, by what each rank finds in its rows alone"
    if why is not None:
        raise UserError(f"compute.parallel is fsdp, but {why}. Nothing was trained; ddp does it.")
