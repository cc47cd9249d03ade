"""CLIP's byte-level BPE, made from the captions."""

import json
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

from small_base.recipe import TOKENS

START, END = "<|startoftext|>", "<|endoftext|>"


def byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's byte-level BPE is written in."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())


def byte_pair_merges(captions: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """The classic algorithm on whole words: join the most frequent neighbours, again and again."""
    counts = Counter(word for caption in captions for word in caption.lower().split())
    words = {word: [*word[:-1], word[-1] + "</w>"] for word in counts}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, symbols in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += counts[word]
        if not pairs:
            break
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = {word: _joined(symbols, best) for word, symbols in words.items()}
    return merges


def _joined(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in symbols:
        if out and (out[-1], symbol) == pair:
            out[-1] += symbol
        else:
            out.append(symbol)
    return out


def write_tokenizer(folder: Path, captions: Iterable[str]) -> CLIPTokenizer:
    merges = [pair for pair in byte_pair_merges(captions, limit=2000) if all(s.isascii() for s in pair)]
    alphabet = byte_characters()
    vocabulary = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    unique = list(dict.fromkeys(vocabulary))
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(unique)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKENS,
        "do_lower_case": True,
        **special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    return CLIPTokenizer.from_pretrained(folder)
