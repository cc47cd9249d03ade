"""What a base in one file predicts is said by its tensors, its metadata, settings beside it, or its numbers."""

from pathlib import Path
from typing import Any

import pytest
import torch

from bases import write_base
from everstep.errors import UserError
from one_file import changed, one_file, opened

NOISE, VELOCITY = ("epsilon", False), ("v_prediction", False)
EMPTY = torch.tensor([])


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_base(tmp_path_factory.mktemp("bases") / kind, like=kind) for kind in ("sd15", "sd21", "sdxl")}


def predicted(folder: Path, path: Path) -> tuple[str, bool]:
    scheduler = opened(folder, path).scheduler
    is_zero = scheduler.get("rescale_betas_zero_snr", False)
    assert scheduler.get("timestep_spacing") == "trailing" or not is_zero
    return scheduler["prediction_type"], is_zero


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_noise_is_usual(kind: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made[kind], tmp_path / "one.safetensors")
    assert predicted(made[kind], path) == NOISE
    assert opened(made[kind], path).notes == ()


@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_empty_tensors_tell(kind: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made[kind], tmp_path / "one.safetensors", v_pred=EMPTY, ztsnr=EMPTY)
    assert predicted(made[kind], path) == ("v_prediction", True)
    assert opened(made[kind], path).notes == ()


def test_a_last_step_of_noise_alone_is_drawn_with(made: dict[str, Path], tmp_path: Path) -> None:
    """The scheduler that is named must know of it: some leave the word out without one."""
    import diffusers

    for kind in ("sd15", "sdxl"):
        path = one_file(made[kind], tmp_path / f"{kind}.safetensors", ztsnr=EMPTY)
        settings = opened(made[kind], path).scheduler
        scheduler = getattr(diffusers, settings["_class_name"]).from_config(settings)
        assert scheduler.alphas_cumprod[-1] < 1e-6, kind


METADATA: list[tuple[dict[str, str], tuple[str, bool]]] = [
    ({"modelspec.prediction_type": "v"}, VELOCITY),
    ({"modelspec.prediction_type": "epsilon"}, NOISE),
    ({"modelspec.prediction_type": "V_Prediction"}, VELOCITY),
    ({"modelspec.predict_key": "v"}, VELOCITY),
    ({"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, ("v_prediction", True)),
    ({"modelspec.architecture": "stable-diffusion-v2-768-v"}, VELOCITY),
]


@pytest.mark.parametrize("says", METADATA)
@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_metadata_tell(
    kind: str, says: tuple[dict[str, str], tuple[str, bool]], made: dict[str, Path], tmp_path: Path
) -> None:
    path = one_file(made[kind], tmp_path / "one.safetensors", says=says[0])
    assert predicted(made[kind], path) == says[1]
    assert opened(made[kind], path).notes == ()


@pytest.mark.parametrize("word", ["rf", "sample", "x0"])
def test_another_word_is_refused(word: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sdxl"], tmp_path / "one.safetensors", says={"modelspec.prediction_type": word})
    with pytest.raises(UserError, match=f"prediction_type is '{word}'; noise .* and velocity .* are known"):
        opened(made["sdxl"], path)


# --- 2.x ---------------------------------------------------------------------------------------------------

LAST = "model.diffusion_model.output_blocks.3.1.transformer_blocks.0.norm1.bias"


@pytest.mark.parametrize(
    ("spread", "kind", "other", "side"), [(0.02, "noise (eps)", "v", 8), (0.2, "velocity (v)", "eps", 12)]
)
def test_of_2x_numbers_tell_and_a_note_says_so(
    spread: float, kind: str, other: str, side: int, made: dict[str, Path], tmp_path: Path
) -> None:
    path = one_file(made["sd21"], tmp_path / "one.safetensors")
    assert LAST in changed_names(path)
    changed(path, lambda held: held.update({LAST: torch.tensor([spread, -spread] * 4)}))
    found = opened(made["sd21"], path)
    assert found.notes == (
        f"{path} does not say what it predicts. By its numbers it is {kind}, and so it is used; where that is wrong, "
        f"one.yaml beside it says otherwise: model: {{params: {{parameterization: {other}}}}}",
    )
    assert (found.configs["unet"]["sample_size"], found.configs["vae"]["sample_size"]) == (side, 2 * side)
    path.with_suffix(".yaml").write_text(found.notes[0].rpartition("otherwise: ")[2])
    assert predicted(made["sd21"], path) == (VELOCITY if other == "v" else NOISE)
    assert opened(made["sd21"], path).notes == ()


def changed_names(path: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize(("step", "wanted"), [(875_000, NOISE), (110_000, VELOCITY)])
def test_checkpoints_of_2x_tell_by_their_step(
    step: Any, wanted: tuple[str, bool], made: dict[str, Path], tmp_path: Path
) -> None:
    path = one_file(made["sd21"], tmp_path / "one.ckpt", says={"global_step": step})
    assert predicted(made["sd21"], path) == wanted
    assert opened(made["sd21"], path).notes == ()


# --- settings beside it ------------------------------------------------------------------------------------


def test_settings_beside_it_have_the_last_word(made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sdxl"], tmp_path / "one.safetensors", v_pred=EMPTY)
    path.with_suffix(".yaml").write_text("model:\n  target: x\n  params: {parameterization: eps, channels: 4}\n")
    assert predicted(made["sdxl"], path) == NOISE


def test_what_they_leave_out_is_noise_in_2x_and_nothing_elsewhere(made: dict[str, Path], tmp_path: Path) -> None:
    for kind, wanted in (("sd21", NOISE), ("sdxl", VELOCITY)):
        path = one_file(made[kind], tmp_path / f"{kind}.safetensors", v_pred=EMPTY)
        path.with_suffix(".yaml").write_text("model: {params: {linear_start: 0.00085}}")
        assert predicted(made[kind], path) == wanted


@pytest.mark.parametrize("content", ["[1", "model: 1", "", "&a [*a]", "mine: notes", "model: {params: 3}"])
def test_other_settings_say_nothing(content: str, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / "one.safetensors")
    path.with_suffix(".yaml").write_text(content)
    assert predicted(made["sd15"], path) == NOISE


def test_a_word_that_is_not_known_is_refused(made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / "one.safetensors")
    path.with_suffix(".yaml").write_text("model: {params: {parameterization: x0}}")
    with pytest.raises(UserError, match=r"one\.yaml: parameterization is 'x0'"):
        opened(made["sd15"], path)


# --- for which pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "side"), [("32x32", 16), ("32x16", 8), ("30x30", 8), ("0x0", 8), ("99999x99999", 8), ("large", 8)]
)
def test_it_says_for_which_pictures_it_was_made(said: str, side: int, made: dict[str, Path], tmp_path: Path) -> None:
    path = one_file(made["sd15"], tmp_path / "one.safetensors", says={"modelspec.resolution": said})
    found = opened(made["sd15"], path)
    assert (found.configs["unet"]["sample_size"], found.configs["vae"]["sample_size"]) == (side, 2 * side)
