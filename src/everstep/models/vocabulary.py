"""The vocabulary of CLIP, which a base in one file does not hold: from beside it, or from the hub."""

import json
from collections.abc import Mapping
from pathlib import Path

from everstep.errors import UserError
from everstep.models.hub import fetch_tokenizer
from everstep.models.weights import reason
from everstep.plain_files import open_plain

FILES = ("vocab.json", "merges.txt")
FOLDER = "tokenizer"  # beside the file
MOST_BYTES = 64 << 20  # CLIP's have one and a half
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def vocabulary_of(path: Path) -> dict[str, bytes]:
    """Both files, for a base in one file. Raises: UserError saying what will do if they cannot be had."""
    beside = path.parent / FOLDER
    folder = beside if (beside / FILES[0]).is_file() else fetch_tokenizer(path)
    return {name: _read(folder / name) for name in FILES}


def tokenizer_files(words: Mapping[str, bytes], positions: int, pad: str) -> dict[str, bytes]:
    """A tokenizer's folder.

    Args:
        positions: of the text encoder that it is for.
        pad: the token that captions are filled up with.
    """
    marks = {"bos_token": BEGIN, "eos_token": END, "unk_token": END, "pad_token": pad}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": positions, "do_lower_case": True, **marks}
    return {**words, "special_tokens_map.json": as_json(marks), "tokenizer_config.json": as_json(settings)}


def as_json(content: object) -> bytes:
    """The same bytes for the same content: what a base is known by."""
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        with open_plain(path) as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Nothing was started.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Nothing was started.") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"{path} is no vocabulary: it is of more than {MOST_BYTES:,} bytes. Nothing was started.")
    return content
