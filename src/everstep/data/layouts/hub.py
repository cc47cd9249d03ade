"""Data sets on the hub: their parquet files, or else their shards, lists and pictures, into the hub's own cache."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from everstep.data.remembered import Memory
from everstep.errors import UserError
from everstep.places import spelled

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
CARRIERS = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "hf_xet")
ALWAYS = bytes(16)  # in the place of a stamp
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".txt")


def is_hub_id(words: str) -> bool:
    """OWNER/NAME, where no folder is called OWNER here: then it is a folder's name that was mistyped."""
    return HUB_ID.fullmatch(words) is not None and not spelled(words).parent.is_dir()


def download(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """The folder of a data set in the hub's cache. Raises: UserError, in one sentence where there is no way there."""
    from huggingface_hub import constants, snapshot_download

    failed = "the hub is switched off (HF_HUB_OFFLINE)"
    if not constants.HF_HUB_OFFLINE:
        try:
            return _fetched(name, progress)
        except UserError:
            raise
        except Exception as error:  # what carries a request has errors of its own, another in each version of the hub
            if not isinstance(error, OSError) and not type(error).__module__.startswith(CARRIERS):
                raise
            failed = " ".join(str(error).split("\n")[0].split()) or type(error).__name__
    try:
        return _whole(name) or Path(snapshot_download(name, repo_type="dataset", local_files_only=True))
    except Exception:  # it is not in the cache, or not whole
        raise UserError(
            f"The data {name} is no folder here and could not be had from the hub: {failed}. Nothing was started."
        ) from None


def _fetched(name: str, progress: Callable[[int, int], None] | None) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    told = HfApi().dataset_info(name)
    wanted = wanted_files([file.rfilename for file in told.siblings or []])
    if not wanted:
        raise UserError(f"The data set {name} on the hub holds no pairs that are understood. Nothing was started.")
    root = Path()
    for done, file in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted))
        path = Path(hf_hub_download(name, file, repo_type="dataset", revision=told.sha))
        root = path.parents[file.count("/")]
    with Memory() as memory:  # the hub's own cache cannot tell a download that was interrupted
        memory.remember_list(f"hub:{name}", ALWAYS, json.dumps([told.sha, wanted]).encode())
    return root


def _whole(name: str) -> Path | None:
    """The folder of what was downloaded last, if all of it is still there."""
    from huggingface_hub import try_to_load_from_cache

    with Memory() as memory:
        known = memory.recall_list(f"hub:{name}", ALWAYS)
    if known is None:
        return None
    sha, wanted = json.loads(known)
    paths = [try_to_load_from_cache(name, file, revision=sha, repo_type="dataset") for file in wanted]
    if not all(isinstance(path, str) for path in paths):
        return None
    return Path(str(paths[0])).parents[str(wanted[0]).count("/")]


def wanted_files(there: list[str]) -> list[str]:
    """Of a repository's files those that hold pairs: tables before shards before pictures with their list."""
    tables = [file for file in there if file.endswith(".parquet")]
    shards = [file for file in there if file.endswith(".tar")]
    lists = [file for file in there if file.rpartition("/")[2] in ("metadata.jsonl", "metadata.csv", "prompt.json")]
    pictures = [file for file in there if file.lower().endswith(PICTURES)]
    some = tables or shards or [*lists, *pictures]
    training = [file for file in some if re.search(r"(^|/)train[-_./]", file)]
    return (training or some) if tables or shards else some
