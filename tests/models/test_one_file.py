"""What one file is: a base that is known, or a sentence that names what else it is, or what is missing of one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import one_file as files
from bases import write_base
from everstep.errors import UserError
from everstep.exchange import sd
from everstep.models.base import locate
from everstep.models.one_file import open_one_file, plan_of
from everstep.models.weights import TEXT_ENCODERS
from everstep.models.whole import SD1, SD2, SDXL, WHOLES, Whole
from one_file import Tensors, changed, one_file, opened, small

UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_base(tmp_path_factory.mktemp("bases") / kind, like=kind) for kind in ("sd15", "sd21", "sdxl")}


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is refused has written nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def without(*beginnings: str) -> Callable[[Tensors], object]:
    return lambda held: [held.pop(name) for name in list(held) if name.startswith(beginnings)]


def more(**tensors: Any) -> Callable[[Tensors], object]:
    return lambda held: held.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})


def channels(count: int) -> Callable[[Tensors], object]:
    return lambda held: held.update({FIRST: torch.zeros(8, count, 3, 3)})


def hears(width: int) -> Callable[[Tensors], object]:
    def change(held: Tensors) -> None:
        for name in [name for name in held if name.endswith("attn2.to_k.weight")]:
            held[name] = torch.zeros(len(held[name]), width)

    return change


def in_eight_bits(held: Tensors) -> None:
    for name in [name for name in held if name.startswith(UNET)]:
        held[name] = held[name].to(torch.float8_e4m3fn)


REFUSED: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "inpainting": ("sd15", channels(9), "is an inpainting base: its UNet takes 9 channels"),
    "inpainting, XL": ("sdxl", channels(9), "is an inpainting base"),
    "edits": ("sd15", channels(8), "is a base that edits pictures: its UNet takes 8 channels"),
    "depth": ("sd21", channels(5), "is a depth base: its UNet takes 5 channels"),
    "upscaler": ("sd21", channels(7), "is an upscaler: its UNet takes 7 channels"),
    "refiner": ("sdxl", hears(1280), "is a refiner of Stable Diffusion XL"),
    "unclip": ("sd21", more(**{f"{UNET}label_emb.0.0.weight": torch.zeros(2, 2)}), "as unCLIP's do"),
    "video": ("sd21", more(**{f"{UNET}input_blocks.1.1.time_stack.0.norm1.bias": torch.zeros(2)}), "is a video base"),
    "EDM": ("sdxl", more(edm_mean=torch.zeros(4), edm_std=torch.zeros(4)), r"counts noise in another way \(EDM\)"),
    "CosXL": ("sdxl", more(**{"edm_vpred.sigma_max": torch.tensor(120.0)}), r"counts noise in another way \(EDM\)"),
    "LCM": ("sd15", more(**{f"{UNET}time_embed.cond_proj.weight": torch.zeros(2)}), "is a distilled base: its UNet is"),
    "no middle": ("sdxl", without(f"{UNET}middle_block."), "is a distilled base: its UNet has no middle block"),
    "other text": ("sd15", hears(4096), r"of another family: its UNet hears text of width 4096; known are 16 \(Stable"),
    "no VAE": (
        "sd15",
        without("first_stage_model."),
        r"of Stable Diffusion 1\.x it holds the UNet and the text encoder; the VAE is missing, or in other names",
    ),
    "no text": ("sd21", without("cond_stage_model."), "it holds the UNet and the VAE; the text encoder is missing"),
    "half the text": (
        "sdxl",
        without("conditioner.embedders.0."),
        "it holds the UNet and the VAE and the second text encoder; the text encoder is missing",
    ),
    "UNet alone": (
        "sdxl",
        without("conditioner.", "first_stage_model."),
        r"it holds the UNet alone, as other programs keep it in diffusion_models/; the VAE and the text encoder and "
        r"the second text encoder are missing",
    ),
    "no UNet": ("sd15", without(UNET), "is no whole base: it lacks the UNet"),
    "a tensor lacks": (
        "sd15",
        without(f"{UNET}middle_block.0.in_layers.0.bias"),
        r"the UNet in it is not that of Stable Diffusion 1\.x: 1 tensor missing \(model\.diffusion_model\.middle_block",
    ),
    "what tells the layout lacks": ("sd15", without(f"{UNET}out.2.weight"), r"1 tensor missing \(.*out\.2\.weight\)"),
    "the projection lacks": (
        "sdxl",
        without("conditioner.embedders.1.model.text_projection"),
        r"the second text encoder in it is not that of .* 1 tensor missing \(.*text_projection",
    ),
    "a tensor too much": (
        "sd15",
        more(**{f"{UNET}extra.weight": torch.zeros(1)}),
        "1 tensor that the config knows nothing of",
    ),
    "more positions": (
        "sd15",
        more(
            **{"cond_stage_model.transformer.text_model.embeddings.position_embedding.weight": torch.zeros(248, 16)},
        ),
        "the text encoder in it is not that of .*position_embedding.weight is 248x16, not 16x16",
    ),
    "a number for a matrix": ("sd15", more(**{FIRST: torch.zeros(())}), "1 tensor of another shape"),
    "eight bits": ("sd15", in_eight_bits, r"holds \d+ tensors of F8_E4M3 numbers.*made smaller for drawing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_base_is_named_and_nothing_is_written(name: str, made: dict[str, Path], tmp_path: Path) -> None:
    kind, change, wanted = REFUSED[name]
    path = changed(one_file(made[kind], tmp_path / "one.safetensors"), change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=wanted) as raised:
        open_one_file(path, small(made[kind]))
    assert str(raised.value).startswith(str(path))
    assert "Nothing was started." in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == before


DISTILLED = (
    *("sd_xl_turbo_1.0_fp16", "sdxl_lightning_4step", "Hyper-SDXL-1step-Unet", "dreamshaperXL_v21TurboDPMSDE"),
    *("DreamShaper8_LCM", "realvisxlV40_v40LightningBakedvae", "sdxl-turbo", "dmd2_sdxl_4step", "sd_turbo"),
)
WHOLE_NAMES = ("noobaiXLNAIXL_vPred10Version", "hyperrealism_v2", "HyperRealistic", "turbovision", "v1-5-pruned")


@pytest.mark.parametrize("stem", DISTILLED)
def test_distilled_ones_are_known_by_their_names(stem: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / f"{stem}.safetensors")
    with pytest.raises(UserError, match="is a distilled base, by its name"):
        open_one_file(path, small(made["sd15"]))


@pytest.mark.parametrize("stem", WHOLE_NAMES)
def test_others_are_not(stem: str, made: dict[str, Path], tmp_path: Path) -> None:
    opened(made["sd15"], one_file(made["sd15"], tmp_path / f"{stem}.safetensors"))


def test_distilled_ones_are_known_by_what_they_call_themselves(made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sdxl"], tmp_path / "one.safetensors", says={"modelspec.title": "My SDXL Turbo"})
    with pytest.raises(UserError, match="is a distilled base: it calls itself My SDXL Turbo"):
        open_one_file(path, small(made["sdxl"]))


HARMLESS: dict[str, Any] = {
    "model_ema.decay": torch.tensor(0.9999),
    "model_ema.num_updates": torch.tensor(7, dtype=torch.int32),
    "model_ema.diffusion_modelinput_blocks00weight": torch.zeros(8, 4, 3, 3),
    "betas": torch.zeros(1000),
    "sqrt_one_minus_alphas_cumprod": torch.zeros(1000),
    "sqrt_recipm1_alphas_cumprod": torch.zeros(1000),
    "log_one_minus_alphas_cumprod": torch.zeros(1000),
    "alphas_cumprod_prev": torch.zeros(1000),
    "posterior_log_variance_clipped": torch.zeros(1000),
    "posterior_mean_coef1": torch.zeros(1000),
    "logvar": torch.zeros(1000),
    "lvlb_weights": torch.zeros(1000),
    "denoiser.sigmas": torch.zeros(1000),
    "global_step": torch.tensor(7),
    "first_stage_model.loss.logvar": torch.zeros(()),
    "first_stage_model.loss.perceptual_loss.lin0.model.1.weight": torch.zeros(1, 2, 1, 1),
    "first_stage_model.model_ema.decay": torch.zeros(()),
    "cond_stage_model.logit_scale": torch.zeros(()),
    "cond_stage_model.transformer.text_projection.weight": torch.zeros(2, 2),
    "conditioner.embedders.0.logit_scale": torch.zeros(()),
    "cond_stage_model.model.transformer.text_model.embeddings.position_ids": torch.zeros(1, 77),
}


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_what_such_files_hold_beside_is_left_without_a_word(kind: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = changed(one_file(made[kind], tmp_path / "one.safetensors"), lambda held: held.update(HARMLESS))
    assert not any("left out" in note for note in opened(made[kind], path).notes)


def test_what_else_there_is_is_left_out_and_said(made: dict[str, Path], tmp_path: Path) -> None:
    lora = {"lora_unet_mid_block.alpha": torch.zeros(()), "control_model.zero_convs.0.0.bias": torch.zeros(2)}
    path = changed(one_file(made["sd15"], tmp_path / "one.safetensors"), lambda held: held.update(lora))
    assert opened(made["sd15"], path).notes == (
        f"{path}: 2 tensors in it are of no part of a base and left out (control_model.zero_convs.0.0.bias, "
        "lora_unet_mid_block.alpha).",
    )


# --- other files -------------------------------------------------------------------------------------------

OTHERS = {
    "lora": ({"lora_unet_x.lora_down.weight": torch.zeros(1)}, "a LoRA"),
    "vae": ({"first_stage_model.encoder.conv_in.weight": torch.zeros(1)}, "a VAE's weights"),
    "flux": ({f"{UNET}double_blocks.0.img_attn.norm.key_norm.scale": torch.zeros(1)}, "a Flux"),
    "z-image": ({"cap_embedder.0.weight": torch.zeros(1)}, "a Lumina 2 or Z-Image"),
    "other": ({f"{UNET}layers.0.x": torch.zeros(1)}, "a base of another family"),
    "bare unet": ({"input_blocks.0.0.weight": torch.zeros(1)}, "the UNet of a Stable Diffusion"),
    "controlnet": ({"input_hint_block.0.weight": torch.zeros(1), "input_blocks.0.0.weight": torch.zeros(1)},
                   "a ControlNet as its authors store it"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_files_are_named_too(name: str, suffix: str, tmp_path: Path) -> None:
    held, kind = OTHERS[name]
    path = tmp_path / f"one{suffix}"
    files.write(path, held)
    assert open_one_file(path) is None
    with pytest.raises(UserError, match=f"is one file with {kind}; a base is a folder"):
        locate(str(path))


class Bomb:
    def __reduce__(self) -> Any:
        return eval, ("__import__('pathlib').Path('exploded').touch()",)


def test_a_checkpoint_that_runs_code_is_not_run(made: dict[str, Path], tmp_path: Path, workplace: Path) -> None:
    path = tmp_path / "one.ckpt"
    torch.save({"state_dict": files.tensors_of(made["sd15"]), "callback": Bomb()}, path)
    with pytest.raises(UserError, match=r"one\.ckpt asks for __builtin__\.eval, which is no weight"):
        locate(str(path))
    assert not (workplace / "exploded").exists()


def test_a_checkpoint_of_an_old_kind_says_what_to_do(made: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "one.ckpt"
    torch.save(files.tensors_of(made["sd15"]), path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match=r"PyTorch before 1\.6.*\n.*torch\.save\(torch\.load"):
        locate(str(path))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_a_download_that_has_not_ended_is_a_sentence(suffix: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / f"one{suffix}")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(UserError, match=r"ends too early|was not downloaded to its end"):
        locate(str(path))


def test_no_file_of_weights_is_no_base(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert open_one_file(tmp_path / "notes.txt") is None
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    assert open_one_file(tmp_path / "x.safetensors") is None


# --- the true ones -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.title)
def test_what_is_known_of_true_bases_describes_them(whole: Whole) -> None:
    """Configs of every part, as the library builds them: as many numbers as the bases have."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    def count(network: Any) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    parts = whole.parts
    with torch.device("meta"):
        found = {
            "unet": count(UNet2DConditionModel.from_config(dict(parts["unet"]))),
            "vae": count(AutoencoderKL.from_config(dict(parts["vae"]))),
            "text_encoder": count(CLIPTextModel(CLIPTextConfig(**parts["text_encoder"]))),
        }
        if "text_encoder_2" in parts:
            found["text_encoder_2"] = count(CLIPTextModelWithProjection(CLIPTextConfig(**parts["text_encoder_2"])))
    true = {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}
    if whole is SD2:
        true |= {"unet": 865_910_724, "text_encoder": 340_387_840}
    if whole is SDXL:
        true |= {"unet": 2_567_463_684, "text_encoder_2": 694_659_840}
    assert found == true


TRUE_LAYOUTS = {
    SD1.title: (sd.UNET, sd.VAE, sd.CLIP),
    SD2.title: (sd.UNET, sd.VAE, sd.OPEN_CLIP),
    SDXL.title: (sd.UNET, sd.VAE, sd.CLIP_OF_XL, sd.OPEN_CLIP_OF_XL),
}


@pytest.mark.parametrize("whole", WHOLES, ids=lambda whole: whole.title)
def test_files_of_true_sizes_are_known(whole: Whole, tmp_path: Path) -> None:
    """Files that are all holes: little of them but the header is looked at."""
    from math import prod

    from everstep.versions.tensorfile import TensorPlace, encode_header

    places, end = dict[str, TensorPlace](), 0
    for layout in TRUE_LAYOUTS[whole.title]:
        for name, shape in layout.expand(plan_of(layout.network, whole.parts[layout.network])).their_shapes().items():
            places[name] = TensorPlace("F16", shape, end, end := end + 2 * prod(shape))
    path = tmp_path / "true.safetensors"
    with path.open("wb") as file:
        header = encode_header(places, {})
        file.write(header)
        file.truncate(len(header) + end)
    found = open_one_file(path)
    assert found is not None
    assert found.whole is whole
    assert found.configs["unet"]["sample_size"] == (128 if whole is SDXL else 64)
    assert set(found.parts) == set(whole.parts)
    assert all((part in TEXT_ENCODERS) == ("architectures" in config) for part, config in found.configs.items())


def test_a_table_may_hold_other_ones(made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / "one.safetensors")
    with pytest.raises(UserError, match="hears text of width 16; known are 768"):
        open_one_file(path)
    [known] = small(made["sd15"])
    assert open_one_file(path, (SDXL, replace(known, title="Mine"))) is not None
