"""Every reader takes every file of ours as what it is, and what it would misread is refused before it is written."""

import pytest

from everstep.errors import UserError
from everstep.exchange import sd
from everstep.exchange.architecture import architecture_of, kind_of
from everstep.exchange.keys import Layout
from everstep.exchange.lllite import is_lllite, lllite_shapes, sizes_of
from everstep.exchange.operations import Shape
from everstep.exchange.readers import COMFYUI, CONDITIONS, DIFFUSERS, INVOKEAI, READERS
from everstep.models.shapes import HINT_CHANNELS, controlnet_shapes, smaller
from exchange import plans
from exchange.readers import rules

SINGLES = [
    (reader, kind)
    for reader in ("comfyui", "forge", "a1111", "invokeai")
    for kind in plans.CONTROLNETS
    if (reader, kind) != ("invokeai", "sdxl-mid")
]


def as_what(reader: str, shapes: dict[str, Shape], name: str = "edges_canny_sd1_v3.safetensors") -> str:
    if reader == "invokeai":
        return rules.invokeai(shapes)
    return {"comfyui": rules.comfyui, "forge": rules.forge, "a1111": rules.a1111}[reader](shapes, name)


@pytest.mark.parametrize("kind", plans.CONTROLNETS)
def test_a_network_is_known_by_its_shapes(kind: str) -> None:
    assert kind_of(plans.controlnet(kind)) == kind


@pytest.mark.parametrize(("size", "kind"), [("full", "sdxl"), ("mid", "sdxl-mid"), ("small", "sdxl-small")])
def test_what_is_trained_for_sdxl_is_what_the_programs_know(size: str, kind: str) -> None:
    config = plans.CONTROLNETS["sdxl"]
    found = controlnet_shapes({**config, **smaller(config, size)}, HINT_CHANNELS)
    assert found is not None
    assert kind_of(found) == kind
    assert found == plans.controlnet(kind)


@pytest.mark.parametrize(("reader", "kind"), SINGLES)
def test_every_reader_takes_every_file_as_what_it_is(reader: str, kind: str) -> None:
    plan = plans.controlnet(kind)
    form = READERS[reader].form(plan)
    assert not form.is_folder
    taken = as_what(reader, form.layout.expand(plan).their_shapes())
    assert taken == (kind.partition("-")[0] if reader == "invokeai" else kind)


@pytest.mark.parametrize("kind", plans.CONTROLNETS)
def test_diffusers_takes_every_file_as_a_controlnet_and_a_folder_as_it_stands(kind: str) -> None:
    plan = plans.controlnet(kind)
    there = COMFYUI.form(plan).layout.expand(plan).their_shapes()
    taken = {"sd1": "controlnet", "sd2": "controlnet", "sdxl": "controlnet_xl_large"}
    assert rules.diffusers(there) == taken.get(kind, "controlnet_xl_small")
    assert DIFFUSERS.form(plan).is_folder
    assert DIFFUSERS.form(plan).layout.expand(plan).their_shapes() == plan


def test_invokeai_gets_sdxl_mid_as_a_folder_since_its_file_is_loaded_as_the_small_one() -> None:
    plan = plans.controlnet("sdxl-mid")
    assert rules.diffusers(plan) == "controlnet_xl_small"
    assert INVOKEAI.form(plan).is_folder
    assert rules.invokeai_folder({"_class_name": "ControlNetModel", "cross_attention_dim": 2048}) == "sdxl"


def test_why_sd1_is_not_handed_out_in_diffusers_names() -> None:
    plan = plans.controlnet("sd1")
    assert rules.invokeai(plan) == "sdxl"
    assert INVOKEAI.form(plan).layout is sd.CONTROLNET_LDM


def test_why_sdxl_is_not_handed_out_in_its_authors_names() -> None:
    there = sd.CONTROLNET_LDM.expand(plans.controlnet("sdxl")).their_shapes()
    assert (rules.invokeai(there), rules.diffusers(there)) == ("nothing", "controlnet")
    bare = sd.CONTROLNET_BARE.expand(plans.controlnet("sdxl")).their_shapes()
    assert (rules.invokeai(bare), rules.diffusers(bare)) == ("nothing", "v1")


@pytest.mark.parametrize("key", [key for key in READERS if key != "diffusers"])
def test_a_network_that_no_list_has_is_refused_with_what_it_is(key: str) -> None:
    reader = READERS[key]
    shapes = plans.shapes(
        plans.on_meta(plans.ControlNetModel, block_out_channels=(32, 64, 64, 64), cross_attention_dim=64)
    )
    with pytest.raises(UserError) as refused:
        reader.form(shapes)
    assert f"{reader.title} knows a ControlNet by its shapes: Stable Diffusion 1.x" in str(refused.value)
    assert "(blocks of 32, 64, 64, 64 channels, text of 64)" in str(refused.value)
    assert rules.comfyui(sd.CONTROLNET_DIFFUSERS.expand(shapes).their_shapes(), "a") == "an error"


def test_attentions_without_blocks_are_refused_where_they_would_be_left_out() -> None:
    plan = plans.shapes(plans.on_meta(plans.ControlNetModel, **plans.SDXL_SHALLOW))
    assert architecture_of(plan).depths == (None, 0, 1)
    with pytest.raises(UserError, match="ComfyUI knows a ControlNet by its shapes"):
        COMFYUI.form(plan)
    assert INVOKEAI.form(plan).is_folder


# --- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "name"),
    [("comfyui", "a_shuffle.safetensors"), ("a1111", "my-Shuffle-2.safetensors"),
     ("a1111", "instant_id_v2.safetensors"), ("forge", "x_shuffle_fp16.safetensors"),
     ("invokeai", "shuffle.safetensors")],
)  # fmt: skip
def test_names_that_change_what_a_file_is_used_for_are_refused(reader: str, name: str) -> None:
    with pytest.raises(UserError, match="in its name otherwise"):
        READERS[reader].check_name(name, None)
    DIFFUSERS.check_name(name, None)


def test_invokeai_chooses_the_condition_that_a_name_says() -> None:
    for condition in CONDITIONS:
        name = f"edges_{condition}_sd1_v3.safetensors"
        assert rules.invokeai_preprocessor(name) is not None
        INVOKEAI.check_name(name, condition)
    with pytest.raises(UserError, match="InvokeAI would make canny conditions for it, by its name, not depth"):
        INVOKEAI.check_name("canny_depth_sd1_v3.safetensors", "depth")
    assert rules.invokeai_preprocessor("canny_depth_sd1_v3.safetensors") == "canny"
    with pytest.raises(UserError, match="InvokeAI would make soft conditions for it, by its name, not pose"):
        INVOKEAI.check_name("software_pose_sd1_v3.safetensors", "pose")
    assert rules.invokeai_preprocessor("software_pose_sd1_v3.safetensors") == "soft"
    COMFYUI.check_name("canny_depth_sd1_v3.safetensors", "depth")


# --- what is of others -------------------------------------------------------------------------------------

OTHERS: dict[str, dict[str, Shape]] = {
    "LoRA": {"lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (4, 320)},
    "T2I-Adapter": {"body.0.in_conv.weight": (320, 192, 1, 1), "body.0.block1.weight": (320, 320, 3, 3)},
    "inpainting base": {"model.diffusion_model.input_blocks.0.0.weight": (320, 9, 3, 3)},
}


@pytest.fixture(scope="module")
def others() -> dict[str, dict[str, Shape]]:
    parts = plans.base("sdxl")
    layouts = (sd.UNET, sd.VAE, sd.CLIP_OF_XL, sd.OPEN_CLIP_OF_XL)
    whole = {k: s for layout in layouts for k, s in layout.expand(parts[layout.network]).their_shapes().items()}
    return {**OTHERS, "whole base": whole, "LLLite": lllite_shapes(parts["unet"], 32, 64), "UNet": parts["unet"]}


def test_files_of_others_are_no_controlnets_to_us(others: dict[str, dict[str, Shape]]) -> None:
    assert {name: [layout.name for layout in sd.CONTROLNETS if layout.is_of(s)] for name, s in others.items()} == {
        name: [] for name in others
    }
    assert [name for name, shapes in others.items() if is_lllite(shapes)] == ["LLLite"]


@pytest.mark.parametrize(
    ("layout", "more"),
    [
        (sd.CONTROLNET_BARE, "lora_controlnet"),
        (sd.CONTROLNET_LDM, "difference"),
        (sd.CONTROLNET_DIFFUSERS, "task_embedding"),
        (sd.CONTROLNET_DIFFUSERS, "down_blocks.0.motion_modules.0.temporal_transformer.norm.weight"),
    ],
)
def test_what_only_has_a_controlnets_names_is_none(layout: Layout, more: str) -> None:
    shapes = layout.expand(plans.controlnet("sd1")).their_shapes()
    assert layout.is_of(shapes)
    assert not any(known.is_of({**shapes, more: (1,)}) for known in sd.CONTROLNETS)


def test_readers_tell_them_apart_too(others: dict[str, dict[str, Shape]]) -> None:
    kinds = set(plans.CONTROLNETS)
    for shapes in (others[name] for name in ("LoRA", "T2I-Adapter", "inpainting base", "whole base", "LLLite")):
        assert not {as_what(reader, shapes) for reader in ("comfyui", "forge", "a1111", "invokeai")} & kinds
    assert as_what("forge", others["LLLite"]) == as_what("a1111", others["LLLite"]) == "LLLite"
    assert rules.diffusers(others["inpainting base"]) == "inpainting"
    assert rules.diffusers(others["whole base"]) == "xl_base"


@pytest.mark.parametrize("key", READERS)
def test_an_lllite_goes_under_its_own_names_to_those_who_know_it(others: dict[str, dict[str, Shape]], key: str) -> None:
    shapes = others["LLLite"]
    assert kind_of(shapes) == "sdxl-lllite"
    if key in ("diffusers", "invokeai"):
        with pytest.raises(UserError, match=r"cannot draw with an LLLite.*\n--for comfyui, forge, a1111"):
            READERS[key].form(shapes)
        return
    form = READERS[key].form(shapes)
    assert not form.is_folder
    assert form.layout.expand(shapes).their_shapes() == shapes
    node = "ControlNet-LLLite-ComfyUI" if key == "comfyui" else "ControlNet"
    assert node in READERS[key].way("sdxl-lllite")[0]


def test_an_lllite_of_another_unet_is_refused_where_it_would_be_left_out(others: dict[str, dict[str, Shape]]) -> None:
    shapes = {name: shape for name, shape in others["LLLite"].items() if "input_blocks_8_1" not in name}
    assert kind_of(shapes) is None
    with pytest.raises(UserError, match="Forge knows an LLLite by where it stands in SDXL"):
        READERS["forge"].form(shapes)


def test_an_lllite_has_136_modules_of_its_sizes(others: dict[str, dict[str, Shape]]) -> None:
    shapes = others["LLLite"]
    assert sizes_of(shapes) == (32, 64)
    assert len({name.partition(".")[0] for name in shapes}) == 136
    module = "lllite_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_q"
    inside = {name.partition(".")[2]: shape for name, shape in shapes.items() if name.startswith(f"{module}.")}
    assert inside == {
        "conditioning1.0.weight": (16, 3, 4, 4), "conditioning1.0.bias": (16,),
        "conditioning1.2.weight": (32, 16, 4, 4), "conditioning1.2.bias": (32,),
        "down.0.weight": (64, 640), "down.0.bias": (64,),
        "mid.0.weight": (64, 96), "mid.0.bias": (64,),
        "up.0.weight": (640, 64), "up.0.bias": (640,),
    }  # fmt: skip
    deep = "lllite_unet_middle_block_1_transformer_blocks_9_attn1_to_v.conditioning1"
    assert (shapes[f"{deep}.2.weight"], shapes[f"{deep}.4.weight"]) == ((16, 16, 4, 4), (32, 16, 2, 2))
    assert not any("attn2_to_k" in name or "to_out" in name or "output_blocks" in name for name in shapes)
