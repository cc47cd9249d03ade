"""Captions of any script can be read on a contact sheet."""

import numpy as np
import pytest

from everstep.evaluation.pictures.draw import Shown
from everstep.evaluation.pictures.lettering import drawable, font, wrapped
from everstep.evaluation.pictures.sheet import contact_sheet


@pytest.mark.parametrize("caption", ["crêpe", "cre\u0302pe", "кошка", "γάτα", "قطة", "חתול", "a cat, 3 × 4 …"])
def test_letters_that_the_font_has_are_drawn_as_they_are(caption: str) -> None:
    assert "[" not in drawable(caption)
    assert font(32).getmask(drawable(caption)[0]).getbbox() is not None


def test_letters_that_it_has_not_are_told_by_number() -> None:
    assert drawable("猫 on a mat") == "[732B] on a mat"
    assert drawable("half \ud83d, \x07") == "half \N{REPLACEMENT CHARACTER}, [0007]"


def test_long_captions_are_cut_into_few_lines() -> None:
    lines = wrapped("a red circle with a blue background " * 9, 144, 11, 3).split("\n")
    assert len(lines) == 3
    assert lines[-1].endswith("…")
    assert wrapped("", 144, 11, 3) == ""


def test_a_sheet_is_drawn_whatever_its_captions_hold() -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    for caption in ("\ud83d", "猫", "a\nb", "\0", "x" * 500):
        page = contact_sheet("猫 · version_1", [Shown(pixels, caption, pixels)], [pixels])
        assert page.getbbox() is not None
