"""Which bits of two tensors differ."""

import pytest
import torch
from torch import Tensor

from everstep.train.bits import difference


def flipped(tensor: Tensor, element: int, bit: int) -> Tensor:
    again = tensor.clone()
    again.reshape(-1).view(torch.uint8)[element * tensor.element_size() + bit // 8] ^= 1 << bit % 8
    return again


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64])
def test_a_flipped_bit_is_named(dtype: torch.dtype) -> None:
    stored = torch.arange(24).reshape(4, 6).to(dtype)
    for bit in (0, 7, 8, 8 * stored.element_size() - 1):
        found = difference("weight", stored, flipped(stored, 17, bit))
        assert (found.elements, found.of_elements, found.bits) == (1, 24, 1)
        assert [(flip.bit, flip.element, flip.index) for flip in found.flips] == [(bit, 17, (2, 5))]
        assert f"weight: bit {bit} of element 17 (2, 5), 17 stored" in str(found)


def test_a_scalar_has_no_place() -> None:
    found = difference("step", torch.tensor(4.0), torch.tensor(2.0))
    assert str(found) == "step: bit 23 of element 0, 4 stored, 2 again"


def test_many_bits_are_counted() -> None:
    stored = torch.zeros(3, 4)
    again = stored.clone()
    again[1, 1:] = torch.tensor([1.0, -2.0, 0.5])
    found = difference("weight", stored, again)
    assert (found.elements, found.bits, found.flips) == (3, 7 + 2 + 6, ())
    assert str(found) == "weight: 15 bits in 3 of 12 elements, the largest difference 2"


def test_zeros_of_other_sign_and_other_nans_differ() -> None:
    assert difference("weight", torch.tensor([0.0]), torch.tensor([-0.0])).flips[0].bit == 31
    nan = torch.tensor([float("nan")])
    assert difference("weight", nan, flipped(nan, 0, 3)).elements == 1
    assert difference("weight", nan, nan.clone()).elements == 0
