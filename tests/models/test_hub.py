"""Of a repository on the hub exactly those files are downloaded that are loaded, each network in one form."""

from everstep.models.hub import loaded_files

# As Stable Diffusion 1.5 lies on the hub.
LISTED = [
    ".gitattributes",
    "README.md",
    "feature_extractor/preprocessor_config.json",
    "model_index.json",
    "safety_checker/config.json",
    "safety_checker/model.fp16.safetensors",
    "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder/pytorch_model.bin",
    "text_encoder/pytorch_model.fp16.bin",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.onnx",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.non_ema.bin",
    "unet/diffusion_pytorch_model.non_ema.safetensors",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/openvino_model.xml",
    "v1-5-pruned-emaonly.ckpt",
    "v1-5-pruned-emaonly.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.bin",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_decoder/model.onnx",
]
WANTED = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "tokenizer/merges.txt",
    "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
}


def test_one_form_of_each_network_and_nothing_else() -> None:
    assert set(loaded_files(LISTED)) == WANTED


def test_where_there_is_no_safetensors_the_whole_bin_is_taken() -> None:
    bins = [name for name in LISTED if not (name.startswith("unet/") and name.endswith("model.safetensors"))]
    assert "unet/diffusion_pytorch_model.bin" in loaded_files(bins)
    assert not any("fp16" in name or "non_ema" in name for name in loaded_files(bins))


def test_halved_numbers_are_taken_where_there_are_no_others() -> None:
    halved = [name for name in LISTED if not name.startswith("unet/") or "fp16" in name or name.endswith("config.json")]
    taken = [name for name in loaded_files(halved) if name.startswith("unet/")]
    assert taken == ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"]


def test_all_shards_of_an_index_are_taken() -> None:
    shards = [f"unet/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    others = [name for name in LISTED if not name.startswith("unet/diffusion")]
    index = "unet/diffusion_pytorch_model.safetensors.index.json"
    taken = loaded_files([*others, index, *shards])
    assert {index, *shards} == {name for name in taken if name.startswith("unet/")} - {"unet/config.json"}
