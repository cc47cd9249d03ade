"""A base is found by any of its names, and told from every other by its content."""

import json
import shutil
from pathlib import Path

import pytest

from everstep.errors import UserError
from everstep.models.base import _once_digested, differing_files, locate


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


def test_files_that_nothing_loads_do_not_count(tiny_base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    for name in ("unet/.DS_Store", "vae/README.md", "unet/diffusion_pytorch_model.non_ema.safetensors"):
        (copy / name).write_bytes(b"stray")
    base = locate(str(copy))
    assert base.digest() == locate(str(tiny_base)).digest()
    assert set(base.file_digests()) == {str(path.relative_to(copy)) for path in base.loaded_files()}
    # An earlier program, to which every file counted, would have recorded this; a run of it goes on.
    of_all_files = base._digest_of(list(_once_digested(copy)))
    assert of_all_files != base.digest()
    assert base.digest(of_all_files) == of_all_files
    assert base.digest("xxh3-128:another") == base.digest()


def test_digests_of_known_bases_are_what_earlier_runs_recorded() -> None:
    assert locate("builtin:circles").digest() == "xxh3-128:d7cb08b6843b0e9b227a65e4e2c97d38"


def test_which_files_differ_is_told(tiny_base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    then = locate(str(copy)).file_digests()
    (copy / "unet/config.json").write_text((copy / "unet/config.json").read_text() + " ")
    (copy / "tokenizer/special_tokens_map.json").unlink()
    told = differing_files(then, locate(str(copy)).file_digests()).splitlines()
    assert told == ["  tokenizer/special_tokens_map.json is not there any more", "  unet/config.json is other"]


def test_a_mistyped_folder_names_the_near_one(tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"did you mean .*sd15\? Nothing was started\.$"):
        locate(str(tiny_base.parent / "sd1.5"))


def test_a_built_in_base_by_its_bare_name_is_told_its_whole_one() -> None:
    with pytest.raises(UserError, match=r"did you mean builtin:circles\? Nothing was started\.$"):
        locate("circles")


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
