"""Prompts to embeddings, remembered: captions repeat every epoch, and half of them are the empty one.

Each prompt is encoded alone, so that its embedding does not depend on its neighbours: a resumed run, whose memory
starts empty, computes the same bits.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from everstep.models.tokens import as_taken

DEFAULT_BYTES = 512 << 20


class PromptEncoder:
    """Encodes prompts with a frozen CLIP text encoder, keeping the latest embeddings on the device."""

    def __init__(self, tokenizer: Any, encoder: Any, remembered_bytes: int = DEFAULT_BYTES) -> None:
        self._tokenizer, self._encoder = tokenizer, encoder
        self._remembered: OrderedDict[str, Tensor] = OrderedDict()
        self._left_bytes = remembered_bytes

    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Shapes: prompts B -> embeddings [B, tokens, width] in the encoder's dtype, on its device."""
        return torch.stack([self._embedding(prompt) for prompt in prompts])

    def _embedding(self, prompt: str) -> Tensor:
        known = self._remembered.get(prompt)
        if known is None:
            known = self._remembered[prompt] = self._encode(prompt)
            self._left_bytes -= known.nbytes
            while self._left_bytes < 0 and len(self._remembered) > 1:
                self._left_bytes += self._remembered.popitem(last=False)[1].nbytes
        self._remembered.move_to_end(prompt)
        return known

    @torch.no_grad()
    def _encode(self, prompt: str) -> Tensor:
        tokens = self._tokenizer(
            as_taken(self._tokenizer, prompt),
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        wants_mask = getattr(self._encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self._encoder.device) if wants_mask else None
        embedding: Tensor = self._encoder(tokens.input_ids.to(self._encoder.device), attention_mask=mask)[0][0]
        return embedding
