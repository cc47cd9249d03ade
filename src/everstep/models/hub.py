"""Which files of a repository on the hub are downloaded: exactly those that are loaded.

Never imports torch.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from everstep.errors import UserError
from everstep.models.registry import row_of_names
from everstep.models.weights import DIFFUSERS, TEXT_ENCODERS, TRANSFORMERS, VARIANT
from everstep.models.weights import listed as listed_names

CLIP = "openai/clip-vit-large-patch14"
TOKENIZER = (
    "added_tokens.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)


def loaded_files(names: Iterable[str]) -> list[str]:
    """Of all files in a repository those that a training reads; shards by their pattern.

    Where a network is there in several forms, the one that `find_weights` takes.
    """
    there = sorted(names)
    wanted = [name for name in there if name == "model_index.json"]
    row = row_of_names(name.split("/")[0] for name in there)
    for component in row.components:
        inside = [name.split("/", 1)[1] for name in there if name.startswith(f"{component}/") and name.count("/") == 1]
        if component in row.tokenizers:
            taken = [name for name in inside if name in TOKENIZER]
        elif component == "scheduler":
            taken = [name for name in inside if name == "scheduler_config.json"]
        else:
            stems = TRANSFORMERS if component in TEXT_ENCODERS else DIFFUSERS
            taken = [name for name in inside if name == "config.json"] + _weights(inside, stems)
        wanted += [f"{component}/{name}" for name in taken]
    return wanted


def _weights(names: list[str], stems: tuple[str, str]) -> list[str]:
    for variant in ("", f".{VARIANT}"):
        for stem, kind in zip(stems, ("safetensors", "bin"), strict=True):
            index = f"{stem}.{kind}.index{variant}.json"
            if index in names:
                beginning = f"{stem}{variant}-0"
                return [index, *(name for name in names if name.startswith(beginning) and name.endswith(f".{kind}"))]
            if f"{stem}{variant}.{kind}" in names:
                return [f"{stem}{variant}.{kind}"]
    return []


def download(name: str, revision: str | None) -> Path:
    """The folder of a snapshot in the hub's cache, completed if it can be reached. Raises: UserError."""

    def wanted(listed: list[str]) -> list[str]:
        found = loaded_files(listed)
        if "unet/config.json" not in found and not any(file.startswith("transformer/") for file in listed):
            raise UserError(_no_base(name, listed))
        return found or ["model_index.json"]

    return _snapshot(name, revision, wanted, "The base ")


def download_controlnet(name: str) -> Path:
    """The same of a ControlNet: its config and weights, or the one file that there is. Raises: UserError."""

    def wanted(listed: list[str]) -> list[str]:
        top = [file for file in listed if "/" not in file]
        if "config.json" in top and (weights := _weights(top, DIFFUSERS)):
            return ["config.json", *weights]
        single = [file for file in top if file.endswith((".safetensors", ".pth", ".pt", ".ckpt", ".bin"))]
        if len(single) == 1:
            return single
        told = f"it holds {len(single)} files of weights ({listed_names(single)})" if single else "it holds no weights"
        raise UserError(f"{name} on the hub is not one ControlNet: {told}. Nothing was started.\n"
                        "Download the one that is meant; its path is taken as well.")  # fmt: skip

    return _snapshot(name, None, wanted, "")


def _snapshot(name: str, revision: str | None, wanted: Callable[[list[str]], list[str]], what: str) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def cached() -> Path:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))

    def fetched() -> Path:
        files = wanted(HfApi().list_repo_files(name, revision=revision))
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))

    ways: list[Callable[[], Path]] = [cached] if constants.HF_HUB_OFFLINE else [fetched, cached]
    failed = ""
    for way in ways:
        try:
            return way()
        except HFValidationError as error:
            failed = failed or _first(error)
        except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
            failed = failed or _first(error)
        except Exception as error:  # what carries a request has errors of its own, another in each version of the hub
            if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
                raise
            failed = failed or _first(error)
    raise UserError(f"{what}{name} is no folder here and could not be had from the hub: {failed}")


def fetch_tokenizer(needed_by: Path) -> Path:
    """The folder with CLIP's vocabulary, from the hub or from its cache. Raises: UserError saying what else will do."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    names = ("vocab.json", "merges.txt")
    there = [try_to_load_from_cache(CLIP, name) for name in names]
    if all(isinstance(path, str) for path in there):  # they never change
        return Path(str(there[0])).parent
    try:
        found = [Path(hf_hub_download(CLIP, name)) for name in names]
    except Exception as error:  # as in `download`: what carries a request has errors of its own
        raise UserError(
            f"{needed_by} has no tokenizer in it, and {CLIP} could not be had from the hub: {_first(error)}. "
            f"Nothing was started.\nA folder {needed_by.parent / 'tokenizer'} with vocab.json and merges.txt will do."
        ) from None
    return found[0].parent


def _first(error: Exception) -> str:
    said = str(error).strip().splitlines()
    return said[0].rstrip(".") if said else type(error).__name__


def _no_base(name: str, listed: list[str]) -> str:
    single = [file for file in listed if file.endswith((".safetensors", ".ckpt")) and "/" not in file]
    told = f"\nIt holds {single[0]}, one file. Download it, and name its path as --base." if single else ""
    return (
        f"{name} on the hub is not a base in diffusers layout: it has no unet/config.json. Nothing was started.{told}"
    )
