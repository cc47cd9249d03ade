"""Every file in a version of a ControlNet, once. Torch-free, so that sizes can be told without the networks."""

CONTROLNET_CONFIG = "controlnet/config.json"
WEIGHTS = "controlnet/diffusion_pytorch_model.safetensors"
OPTIMIZER = "training/optimizer.safetensors"
AVERAGED = "training/ema.safetensors"
STATE = "training/state.json"
HPARAMS = "hparams.yaml"

TENSOR_FILES = (WEIGHTS, OPTIMIZER, AVERAGED)  # in the order in which a version is laid out
METADATA = {WEIGHTS: {"format": "pt"}, AVERAGED: {"format": "pt"}}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of each parameter, in the optimizer's file
