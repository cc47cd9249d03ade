"""Stable Diffusion 1.x, 2.x and XL in the names of others: the ControlNet, and each network of a whole base.

Letters: L layers of a block, H layers of the hint encoder between its ends, N blocks of the VAE. A text encoder's plan
has no prefix, as models.parts tells it.
Source: lllyasviel/ControlNet, cldm/cldm.py; generative-models, sgm/modules/diffusionmodules/openaimodel.py.
"""

from everstep.exchange.keys import Layout, Rule
from everstep.exchange.operations import AsConvolution, Fuse, Transpose

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

# Files with a ControlNet's names that hold something else: Control-LoRAs, differences to a base, many conditions in
# one, and those of video.
OTHER = (
    "lora_controlnet",
    "difference",
    "task_embedding",
    "control_model.task_embedding",
    "down_blocks.0.motion_modules.",
    "lllite_dit_blocks_",
)

CONTROLNET_LDM = Layout(
    name="ControlNet's own names (control_model.)",
    network="controlnet",
    prefix="control_model.",
    told_by=("input_hint_block.0.weight", "zero_convs.0.0.weight"),
    not_by=OTHER,
    rules=CONTROLNET,
    counts=CONTROLNET_COUNTS,
)
CONTROLNET_BARE = Layout(
    name="ControlNet's own names, without control_model.",
    network="controlnet",
    prefix="",
    told_by=("input_hint_block.0.weight", "zero_convs.0.0.weight"),
    not_by=OTHER,
    rules=CONTROLNET,
    counts=CONTROLNET_COUNTS,
)
CONTROLNET_DIFFUSERS = Layout(
    name="diffusers' names",
    network="controlnet",
    prefix="",
    told_by=("controlnet_cond_embedding.conv_in.weight", "controlnet_mid_block.weight"),
    not_by=OTHER,
    rules=(Rule("{rest}", "{rest}"),),
)
CONTROLNETS = (CONTROLNET_LDM, CONTROLNET_BARE, CONTROLNET_DIFFUSERS)

# --- UNet --------------------------------------------------------------------------------------------------

UNET = Layout(
    name="a whole base's names (model.diffusion_model.)",
    network="unet",
    prefix="model.diffusion_model.",
    told_by=("input_blocks.0.0.weight", "out.2.weight"),
    rules=(
        *ENCODER,
        *_resnets("up_blocks.{i}.resnets.{j}", "output_blocks.{(L + 1) * i + j}.0"),
        Rule("up_blocks.{i}.attentions.{j}.{rest}", "output_blocks.{(L + 1) * i + j}.1.{rest}"),
        # What doubles the picture comes last in its block: behind an attention where there is one.
        Rule(
            "up_blocks.{i}.upsamplers.0.conv.{rest}",
            "output_blocks.{(L + 1) * i + L}.2.conv.{rest}",
            beside="up_blocks.{i}.attentions.0.norm.weight",
        ),
        Rule(
            "up_blocks.{i}.upsamplers.0.conv.{rest}",
            "output_blocks.{(L + 1) * i + L}.1.conv.{rest}",
            without="up_blocks.{i}.attentions.0.norm.weight",
        ),
        Rule("conv_norm_out.{rest}", "out.0.{rest}"),
        Rule("conv_out.{rest}", "out.2.{rest}"),
    ),
    counts=LAYERS,
)

# --- VAE ---------------------------------------------------------------------------------------------------
LEVEL = ("norm1", "conv1", "norm2", "conv2")


def _vae_end(side: str, ours: str, theirs: str) -> tuple[Rule, ...]:
    """What encoder and decoder have in common; their blocks are named and counted otherwise."""
    attention, their_attention = f"{side}.mid_block.attentions.0", f"{side}.mid.attn_1"
    matrices = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    return (
        Rule(f"{side}.conv_in.{{rest}}", f"{side}.conv_in.{{rest}}"),
        *(Rule(f"{ours}.resnets.{{j}}.{part}.{{rest}}", f"{theirs}.block.{{j}}.{part}.{{rest}}") for part in LEVEL),
        Rule(f"{ours}.resnets.{{j}}.conv_shortcut.{{rest}}", f"{theirs}.block.{{j}}.nin_shortcut.{{rest}}"),
        Rule(f"{side}.mid_block.resnets.{{i}}.{{rest}}", f"{side}.mid.block_{{i + 1}}.{{rest}}"),
        Rule(f"{attention}.group_norm.{{rest}}", f"{their_attention}.norm.{{rest}}"),
        *(
            Rule(f"{attention}.{part}.{{rest}}", f"{their_attention}.{their_part}.{{rest}}", AsConvolution())
            for part, their_part in matrices.items()
        ),
        Rule(f"{side}.conv_norm_out.{{rest}}", f"{side}.norm_out.{{rest}}"),
        Rule(f"{side}.conv_out.{{rest}}", f"{side}.conv_out.{{rest}}"),
    )


VAE = Layout(
    name="a whole base's names (first_stage_model.)",
    network="vae",
    prefix="first_stage_model.",
    told_by=("encoder.conv_in.weight", "decoder.conv_out.weight"),
    rules=(
        *_vae_end("encoder", "encoder.down_blocks.{i}", "encoder.down.{i}"),
        Rule("encoder.down_blocks.{i}.downsamplers.0.conv.{rest}", "encoder.down.{i}.downsample.conv.{rest}"),
        *_vae_end("decoder", "decoder.up_blocks.{i}", "decoder.up.{N - 1 - i}"),
        Rule("decoder.up_blocks.{i}.upsamplers.0.conv.{rest}", "decoder.up.{N - 1 - i}.upsample.conv.{rest}"),
        Rule("quant_conv.{rest}", "quant_conv.{rest}"),
        Rule("post_quant_conv.{rest}", "post_quant_conv.{rest}"),
    ),
    counts={"N": "decoder.up_blocks.{n}.resnets.0.norm1.weight"},
    unused=(r"model_ema\..*", r"loss\..*"),
)

# --- text encoders -----------------------------------------------------------------------------------------


def _clip(prefix: str, inside: str = "text_model.") -> Layout:
    """As transformers names it; of old without text_model."""
    return Layout(
        name=f"a whole base's names ({prefix})",
        network="text_encoder",
        prefix=f"{prefix}{inside}",
        told_by=("embeddings.token_embedding.weight", "final_layer_norm.weight"),
        rules=(Rule("{rest}", "{rest}"),),
        unused=(r"(text_model\.)?embeddings\.position_ids",),  # counts from 0 on
    )


PROJECTION = Rule("text_projection.weight", "text_projection", Transpose())
PROJECTION_AS_OURS = Rule("text_projection.weight", "text_projection.weight")


def _open_clip(
    network: str, prefix: str, unused: tuple[str, ...], projection: Rule = PROJECTION, told_by: tuple[str, ...] = ()
) -> Layout:
    """As OpenCLIP names it: query, key and value in one."""
    layer, theirs = "encoder.layers.{i}", "transformer.resblocks.{i}"
    names = {
        "self_attn.out_proj": "attn.out_proj",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    joined = {
        end: tuple(f"{layer}.self_attn.{part}_proj.{end}" for part in ("q", "k", "v")) for end in ("weight", "bias")
    }
    return Layout(
        name=f"a whole base's names ({prefix})",
        network=network,
        prefix=prefix,
        told_by=("token_embedding.weight", "ln_final.weight", *told_by),
        rules=(
            Rule("embeddings.token_embedding.weight", "token_embedding.weight"),
            Rule("embeddings.position_embedding.weight", "positional_embedding"),
            *(Rule(parts, f"{theirs}.attn.in_proj_{end}", Fuse()) for end, parts in joined.items()),
            *(Rule(f"{layer}.{part}.{{rest}}", f"{theirs}.{their}.{{rest}}") for part, their in names.items()),
            Rule("final_layer_norm.{rest}", "ln_final.{rest}"),
            projection,
        ),
        unused=("logit_scale", "attn_mask", r".*\bposition_ids", *unused),
    )


CLIP = _clip("cond_stage_model.transformer.")
CLIP_OF_OLD = _clip("cond_stage_model.transformer.", inside="")
# Stable Diffusion 2.x hears the last layer but one, so that its 24th and what follows is not of the text encoder.
UNHEARD = (r"transformer\.resblocks\.23\..*", r"text_projection(\.weight)?")
OPEN_CLIP = _open_clip("text_encoder", "cond_stage_model.model.", UNHEARD)
OPEN_CLIP_OF_SGM = _open_clip("text_encoder", "conditioner.embedders.0.model.", UNHEARD)
CLIP_OF_XL = _clip("conditioner.embedders.0.transformer.")
OPEN_CLIP_OF_XL = _open_clip("text_encoder_2", "conditioner.embedders.1.model.", (), told_by=("text_projection",))
# As what converted bases of diffusers back wrote it for a time.
OPEN_CLIP_CONVERTED = _open_clip(
    "text_encoder_2", "conditioner.embedders.1.model.", (), PROJECTION_AS_OURS, told_by=("text_projection.weight",)
)

BASES = (
    *(UNET, VAE, CLIP, CLIP_OF_OLD, OPEN_CLIP, OPEN_CLIP_OF_SGM),
    *(CLIP_OF_XL, OPEN_CLIP_OF_XL, OPEN_CLIP_CONVERTED),
)
