"""What every run's folder says of itself to whoever finds it."""

README = """\
This folder is one training of a ControlNet, kept by Everstep.

version_N/        a complete, verified state of the training: N counts versions, not steps
  controlnet/     the trained network; diffusers loads it: ControlNetModel.from_pretrained(".../controlnet")
  training/       what an exact resume needs: optimizer, counters
  manifest.json   step, settings, parent, and a digest of every tensor; without it a version does not count
hparams.yaml      every setting of the training
records/          curves, samples, labels, scores: about versions, never inside them
quarantine/       versions that were found damaged; nothing is ever deleted from it
log.jsonl         what happened

Go on:            everstep resume {name}            See:  everstep list {name}
Check the disk:   everstep verify {name}            One version whole:  everstep show {name}@latest
"""
