"""Where a version keeps a network's tensors. Torch-free, so that sizes and files can be told without the networks."""

WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"
OPTIMIZER = "training/optimizer.safetensors"
AVERAGED = "training/ema.safetensors"

METADATA = {WEIGHTS: {"format": "pt"}, AVERAGED: {"format": "pt"}}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of each parameter, in the optimizer's file
