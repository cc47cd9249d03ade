"""Handing an exported ControlNet to the hub, in one commit. Never imports torch."""

import re
from collections.abc import Mapping
from pathlib import Path

from everstep.errors import EverstepError, UserError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
CARRIERS = ("httpx", "httpcore", "requests", "urllib3", "huggingface_hub", "hf_xet")


def check_repository(name: str) -> None:
    """Raises: UserError before any work is done, if nothing could be uploaded there."""
    from huggingface_hub import get_token

    if REPOSITORY.fullmatch(name) is None:
        raise UserError(f"--push-to-hub {name[:80]}: a repository is OWNER/NAME. Nothing was written.")
    if get_token() is None:
        raise UserError(f"--push-to-hub {name}: the hub does not know you. Nothing was written.\nhf auth login")


def upload(name: str, files: Mapping[str, Path | bytes], message: str) -> str:
    """Upload files by their path in the repository, which is made, private, if it is not there; returns its address.

    Raises: UserError with what the hub said; what is on this disk stays.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    operations = [
        CommitOperationAdd(path_in_repo=path, path_or_fileobj=content if isinstance(content, bytes) else str(content))
        for path, content in files.items()
    ]
    try:
        api = HfApi()
        address = api.create_repo(name, private=True, exist_ok=True)
        api.create_commit(name, operations, commit_message=message)
    except EverstepError:
        raise
    except Exception as error:  # what carries a request has errors of its own, another in each version of the hub
        if not type(error).__module__.startswith(CARRIERS) and not isinstance(error, OSError):
            raise
        said = str(error).strip().splitlines()
        raise UserError(f"{name} was not uploaded: {said[0].rstrip('.') if said else type(error).__name__}. "
                        "What was exported is here, whole.") from None  # fmt: skip
    return str(address)
