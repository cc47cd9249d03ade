"""Training: the loop, its state, and how a run begins, goes on and ends."""
