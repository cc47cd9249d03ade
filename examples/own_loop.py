"""A plain PyTorch loop, kept by Everstep: kill it with -9, start it again, and it goes on where it was, bit for bit.

python examples/own_loop.py                     # a keeper is started beside it
everstep keep -- python examples/own_loop.py    # or starts it, and with --restarts 3 again when it died
"""

import torch

import everstep

STEPS = 2_000

torch.manual_seed(0)
network = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 1))
optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

with everstep.keep(
    "own_loop", network, optimizer, others={"schedule": schedule}, images_per_step=32, every=100
) as kept:
    for step in kept.steps(STEPS):
        inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))  # a function of the step
        loss = (network(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()

print(f"step {kept.step}: {sum(weight.double().sum() for weight in network.parameters()):.12f}")
