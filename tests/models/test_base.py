"""A base is found by any of its names, and told from every other by its content."""

import json
import shutil
from pathlib import Path

import pytest

from everstep.errors import UserError
from everstep.models.base import locate


def test_sizes_come_from_the_bases_own_configs(tiny_base: Path) -> None:
    base = locate(str(tiny_base))
    assert (base.vae_factor(), base.native_resolution(), base.latent_shape(16)) == (2, 16, (4, 8, 8))
    with pytest.raises(
        UserError, match=r"data\.resolution is 18, but .* needs a multiple of 4.*--data\.resolution 1[6-9]|20"
    ):
        base.latent_shape(18)


def test_the_digest_follows_the_content(tiny_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_base, copy)
    assert locate(str(copy)).digest() == locate(str(tiny_base)).digest()
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert locate(str(copy)).digest() != locate(str(tiny_base)).digest()


def test_a_mistyped_folder_names_the_near_one(tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean .*sd15"):
        locate(str(tiny_base.parent / "sd1.5"))


def test_a_folder_without_all_parts_is_refused(tiny_base: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_base, tmp_path / "base")
    shutil.rmtree(tmp_path / "base/vae")
    with pytest.raises(UserError, match="not a base in diffusers layout: vae missing"):
        locate(str(tmp_path / "base"))


def test_an_unknown_built_in_base_is_refused() -> None:
    with pytest.raises(UserError, match="there are: circles"):
        locate("builtin:squares")


def test_a_hub_id_is_found_in_the_hubs_own_cache(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    commit = "0" * 40
    stored = tmp_path / "models--someone--small"
    shutil.copytree(tiny_base, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    found = locate("someone/small")
    assert found.name == "someone/small"
    assert found.digest() == locate(str(tiny_base)).digest()
    with pytest.raises(UserError, match="someone/other is no folder here and could not be had from the hub"):
        locate("someone/other")


def test_the_built_in_base_is_small_and_says_what_it_is() -> None:
    base = locate("builtin:circles")
    assert base.native_resolution() == 64
    assert sum(path.stat().st_size for path in base.path.rglob("*")) < 10_000_000
    index = json.loads((base.path / "model_index.json").read_text())
    assert index["_class_name"] == "StableDiffusionPipeline"
