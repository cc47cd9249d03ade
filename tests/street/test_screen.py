"""Arithmetic, scores and pictures that somebody asks for: each works, or one sentence says why."""

from collections.abc import Callable
from pathlib import Path

import pytest

from street import Everstep, Row, Street, Words, read_golden, walk

NEXT = "The loss is|first step|everstep "


def asking(flag: str, value: object) -> Callable[[Street], Words]:
    """A small training with this setting, whatever it is otherwise."""

    def build(street: Street) -> Words:
        words = list(street.train())
        if flag in words:
            place = words.index(flag)
            del words[place : place + 2]
        return [*words, flag, value]

    return build


def with_weight(component: str, name: str, value: float) -> Callable[[Path], None]:
    """Puts a number into the first place of one tensor of a base's component."""

    def spoil(base: Path) -> None:
        from safetensors.torch import load_file, save_file

        path = next((base / component).glob("*.safetensors"))
        tensors = load_file(path)
        tensors[name].view(-1)[0] = value
        save_file(tensors, path, {"format": "pt"})

    return spoil


def on_a_base(spoil: Callable[[Path], None], *more: object) -> Callable[[Street], Words]:
    def build(street: Street) -> Words:
        base = street.base()
        spoil(base)
        return street.train(*more, base=base)

    return build


NO_NUMBER = with_weight("unet", "conv_out.bias", float("nan"))  # which no ControlNet begins with
ROWS = [
    Row("precision_that_is_none", asking("--compute.precision", "fp8")),
    Row("precision_in_capitals", asking("--compute.precision", "BF16")),
    Row("precision_of_another_program", asking("--compute.precision", "no")),
    Row("precision_auto", asking("--compute.precision", "auto"), code=0, shows="steps of"),
    Row("precision_bf16_on_a_cpu", asking("--compute.precision", "bf16"), code=0, shows="steps of"),
    Row("precision_fp16_on_a_cpu", asking("--compute.precision", "fp16"), code=0, shows="steps of"),
    Row("threads_below_none", asking("--compute.threads", "-1")),
    Row("overhead_in_percent", asking("--scoring.overhead", "2%")),
    Row("overhead_of_two_hundred_percent", asking("--scoring.overhead", "2")),
    Row("overhead_below_nothing", asking("--scoring.overhead", "-0.1")),
    Row("patience_of_none", asking("--scoring.patience", "0")),
    Row("more_pictures_than_a_sheet_takes", asking("--sampling.pairs", "65")),
    Row("pictures_in_no_steps", asking("--sampling.steps", "0")),
    Row("sampler_of_another_program", asking("--sampling.scheduler", "euler_a")),
    Row("rate_that_nobody_chooses", asking("--optim.learning-rate", "1e30"), code=5, shows=NEXT),
    Row("base_with_a_weight_that_is_no_number", on_a_base(NO_NUMBER), code=5, shows=NEXT),
    Row(
        "base_that_overflows_in_fp16",
        on_a_base(with_weight("unet", "conv_out.bias", 1e30), "--compute.precision", "fp16"),
        code=5,
        shows=NEXT,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_asked_for_works_or_one_sentence_says_why(row: Row, street: Street, everstep: Everstep) -> None:
    walk(row, "screen", street, everstep)


def test_every_message_has_its_row() -> None:
    assert set(read_golden("screen")) == {row.name for row in ROWS}
