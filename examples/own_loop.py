"""A plain PyTorch loop kept by Everstep's store: kill it, start it again, and it goes on where it was.

python examples/own_loop.py
"""

from pathlib import Path

import torch

from everstep.contracts import Draft, TensorFile
from everstep.versions.torch import TorchTensor, fill
from everstep.versions import Run

FOLDER, STEPS, FILE = Path("runs/own_loop"), 2_000, "weights.safetensors"

network = torch.nn.Linear(8, 1)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05)

run = Run.open(FOLDER) if Run.exists(FOLDER) else Run.create(FOLDER, "lr: 0.05\n")
with run.lock("own_loop.py"):
    run.recover()
    version = run.newest_whole(print)
    if version is not None:
        fill(network.state_dict(), version, FILE)
    for step in range(version.step if version else 0, STEPS):
        inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 100 == 0:
            weights = {name: TorchTensor(tensor) for name, tensor in network.state_dict().items()}
            files = [TensorFile(FILE, weights)]
            made = run.commit(Draft(step + 1, 32 * (step + 1), "interval", None, files, {}, {}))
            print(f"{made.name}: step {made.step}, loss {loss.item():.5f}")
