"""A base's tokenizer: its files are there, whole, and no larger than the text encoder's embeddings; what it takes.

Never imports torch.
"""

from pathlib import Path
from typing import Any

from everstep.errors import UserError
from everstep.letters import whole_letters
from everstep.models.weights import count, is_file, listed, read_json, reason
from everstep.plain_files import read_plain

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
KINDS = ("CLIPTokenizer", "CLIPTokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")


def check_tokenizer(folder: Path, vocab_size: int) -> None:
    """Raises: UserError naming the file."""
    settings = _optional(folder / "tokenizer_config.json")
    kind = settings.get("tokenizer_class")
    if kind is not None and kind not in KINDS:
        raise UserError(f"{folder / 'tokenizer_config.json'}: tokenizer_class is {kind!r:.60}; a CLIPTokenizer is "
                        "needed. Nothing was started.")  # fmt: skip
    length = settings.get("model_max_length", 77)
    if isinstance(length, bool) or not isinstance(length, int | float) or not length > 2:
        raise UserError(f"{folder / 'tokenizer_config.json'}: model_max_length is {length!r:.60}; it should be a "
                        "number above 2. Nothing was started.")  # fmt: skip
    words = _vocabulary(folder)
    added = _optional(folder / "added_tokens.json")
    special = {**_optional(folder / "special_tokens_map.json"), **settings}
    wanted = [_content(special.get(key)) for key in SPECIAL]
    tokens = {**words, **{name: number for name, number in added.items() if isinstance(number, int)}}
    highest = max(tokens.values())
    strangers = sorted({name for name in wanted if name and name not in tokens})
    highest += len(strangers)  # each gets the next number
    if highest >= vocab_size:
        more = f", with {listed(strangers)} added" if strangers else ""
        raise UserError(
            f"{folder} numbers its tokens up to {highest:,}{more}, but the text encoder knows {vocab_size:,} "
            "(text_encoder/config.json: vocab_size): they are of two bases. Nothing was started."
        )


def _content(token: Any) -> str | None:
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if is_file(path) else {}


def _vocabulary(folder: Path) -> dict[str, int]:
    if is_file(folder / "vocab.json") or is_file(folder / "merges.txt"):
        words = _numbers(folder / "vocab.json", read_json(folder / "vocab.json"))
        _check_merges(folder / "merges.txt", words)
        _optional(folder / "tokenizer.json")  # read in their place where it is there
        return words
    whole = folder / "tokenizer.json"
    if not is_file(whole):
        there = sorted(path.name for path in folder.iterdir())
        told = f"there is only {listed(there)}" if there else "it is empty"
        raise UserError(f"{folder} holds no tokenizer: vocab.json and merges.txt are missing, {told}. "
                        "Nothing was started.")  # fmt: skip
    table = read_json(whole)
    model, added = table.get("model"), table.get("added_tokens")
    words = _numbers(whole, model.get("vocab") if isinstance(model, dict) else None)
    entries = [entry for entry in added if isinstance(entry, dict)] if isinstance(added, list) else []
    return words | {str(entry.get("content")): entry["id"] for entry in entries if type(entry.get("id")) is int}


def _numbers(path: Path, words: Any) -> dict[str, int]:
    is_right = isinstance(words, dict) and words and all(type(n) is int and 0 <= n < 1 << 31 for n in words.values())
    if not is_right:
        raise UserError(f"{path} is no vocabulary: words with a number each are needed. Nothing was started.")
    return dict(words)


def _check_merges(path: Path, words: dict[str, int]) -> None:
    """A merge of what is not in the vocabulary makes the tokenizer fail as a whole."""
    try:
        lines = read_plain(path).decode("utf-8").replace("\r\n", "\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: vocab.json needs it. Nothing was started.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}. Nothing was started.") from None
    merges = [line for line in lines if line.strip() and not line.startswith("#version")]
    if not any(line.strip() for line in lines):
        raise UserError(f"{path} is empty. Nothing was started.")
    wrong = [line for line in merges if not _fits(line, words)]
    if wrong:
        raise UserError(f"{path} and vocab.json are of two tokenizers, or damaged: {count(wrong, 'merge')} of what the "
                        f"vocabulary does not know ({listed(wrong)}). Nothing was started.")  # fmt: skip


def _fits(line: str, words: dict[str, int]) -> bool:
    pair = line.split()
    return len(pair) == 2 and pair[0] in words and pair[1] in words and "".join(pair) in words


# --- in use ------------------------------------------------------------------------------------------------


def open_tokenizer(folder: Path, positions: int) -> Any:
    """As a training takes captions: as long as the encoder's positions, whatever its own files say or leave out."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer("a", padding="max_length", max_length=3, truncation=True)
    tokenizer.model_max_length = int(min(tokenizer.model_max_length, positions))
    return tokenizer


def as_taken(tokenizer: Any, caption: str) -> str:
    """The caption as the tokenizer takes it: whole letters, or nothing where it fails all the same."""
    whole = whole_letters(caption)
    try:
        tokenizer(whole, verbose=False)
    except Exception:  # whatever a tokenizer raises; it must not end what is trained
        return ""
    return whole
