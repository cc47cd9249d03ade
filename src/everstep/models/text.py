"""Prompts to embeddings, remembered: captions repeat every epoch, and half of them are the empty one.

Each prompt is encoded alone, so that its embedding does not depend on its neighbours: a resumed run, whose memory
starts empty, computes the same bits.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from everstep.models.tokens import as_taken

DEFAULT_BYTES = 512 << 20


class Remembered:
    """What an encoder makes of prompts, keeping the latest on the device."""

    def __init__(self, encode: Callable[[str], dict[str, Tensor]], remembered_bytes: int = DEFAULT_BYTES) -> None:
        """
        Args:
            encode: what is heard of one prompt, by name.
        """
        self._encode = encode
        self._remembered: OrderedDict[str, dict[str, Tensor]] = OrderedDict()
        self._left_bytes = remembered_bytes

    def __call__(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Shapes: prompts B -> [B, ...] each, in the encoder's dtype, on its device."""
        found = [self._embedding(prompt) for prompt in prompts]
        return {name: torch.stack([one[name] for one in found]) for name in found[0]}

    @torch.no_grad()
    def _embedding(self, prompt: str) -> dict[str, Tensor]:
        known = self._remembered.get(prompt)
        if known is None:
            known = self._remembered[prompt] = self._encode(prompt)
            self._left_bytes -= _bytes(known)
            while self._left_bytes < 0 and len(self._remembered) > 1:
                self._left_bytes += _bytes(self._remembered.popitem(last=False)[1])
        self._remembered.move_to_end(prompt)
        return known


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def tokens(tokenizer: Any, encoder: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
    """Shapes: a prompt -> ids [1,L] int64 on the encoder's device, and a mask [1,L] where the encoder wants one."""
    found = tokenizer(
        as_taken(tokenizer, prompt),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    wants_mask = getattr(encoder.config, "use_attention_mask", False)
    mask = found.attention_mask.to(encoder.device) if wants_mask else None
    return found.input_ids.to(encoder.device), mask
