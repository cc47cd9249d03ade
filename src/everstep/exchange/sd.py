"""Stable Diffusion 1.x, 2.x and XL in the names of others: the ControlNet.

Letters: L layers of a block, H layers of the hint encoder between its ends.
Source: lllyasviel/ControlNet, cldm/cldm.py; generative-models, sgm/modules/diffusionmodules/openaimodel.py.
"""

from everstep.exchange.keys import Layout, Rule

# --- layers that ControlNet and UNet share -----------------------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _resnets(ours: str, theirs: str) -> tuple[Rule, ...]:
    return tuple(
        Rule(f"{ours}.{part}.{{rest}}", f"{theirs}.{their_part}.{{rest}}") for part, their_part in RESNET.items()
    )


ENCODER = (
    Rule("time_embedding.linear_1.{rest}", "time_embed.0.{rest}"),
    Rule("time_embedding.linear_2.{rest}", "time_embed.2.{rest}"),
    Rule("add_embedding.linear_1.{rest}", "label_emb.0.0.{rest}"),
    Rule("add_embedding.linear_2.{rest}", "label_emb.0.2.{rest}"),
    Rule("conv_in.{rest}", "input_blocks.0.0.{rest}"),
    *_resnets("down_blocks.{i}.resnets.{j}", "input_blocks.{(L + 1) * i + j + 1}.0"),
    Rule("down_blocks.{i}.attentions.{j}.{rest}", "input_blocks.{(L + 1) * i + j + 1}.1.{rest}"),
    Rule("down_blocks.{i}.downsamplers.0.conv.{rest}", "input_blocks.{(L + 1) * (i + 1)}.0.op.{rest}"),
    *_resnets("mid_block.resnets.{i}", "middle_block.{2 * i}"),
    Rule("mid_block.attentions.0.{rest}", "middle_block.1.{rest}"),
)
LAYERS = {"L": "down_blocks.0.resnets.{n}.norm1.weight"}

# --- ControlNet --------------------------------------------------------------------------------------------

CONTROLNET = (
    *ENCODER,
    Rule("controlnet_cond_embedding.conv_in.{rest}", "input_hint_block.0.{rest}"),
    Rule("controlnet_cond_embedding.blocks.{i}.{rest}", "input_hint_block.{2 * i + 2}.{rest}"),
    Rule("controlnet_cond_embedding.conv_out.{rest}", "input_hint_block.{2 * H + 2}.{rest}"),
    Rule("controlnet_down_blocks.{i}.{rest}", "zero_convs.{i}.0.{rest}"),
    Rule("controlnet_mid_block.{rest}", "middle_block_out.0.{rest}"),
)
CONTROLNET_COUNTS = {**LAYERS, "H": "controlnet_cond_embedding.blocks.{n}.weight"}

CONTROLNET_LDM = Layout(
    name="ControlNet's own names (control_model.)",
    network="controlnet",
    prefix="control_model.",
    told_by=("input_hint_block.0.weight", "zero_convs.0.0.weight"),
    rules=CONTROLNET,
    counts=CONTROLNET_COUNTS,
)
CONTROLNET_BARE = Layout(
    name="ControlNet's own names, without control_model.",
    network="controlnet",
    prefix="",
    told_by=("input_hint_block.0.weight", "zero_convs.0.0.weight"),
    rules=CONTROLNET,
    counts=CONTROLNET_COUNTS,
)
CONTROLNET_DIFFUSERS = Layout(
    name="diffusers' names",
    network="controlnet",
    prefix="",
    told_by=("controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"),
    rules=(Rule("{rest}", "{rest}"),),
)
CONTROLNETS = (CONTROLNET_LDM, CONTROLNET_BARE, CONTROLNET_DIFFUSERS)
