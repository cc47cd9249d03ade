"""The way from live memory to a committed version, for whatever loop trains: Everstep's own, or a plain one.

Knows runs, versions, tensors and processes. Must not know ControlNets, pairs, scores or settings files. Few files here
name PyTorch; the keeper, which outlives the trainer, loads none of them.
"""
