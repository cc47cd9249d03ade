"""What is advised where a training became no numbers: what may help, never what failed already."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from everstep.config.load import resolve
from everstep.config.schema import Config
from everstep.errors import FirstNotFinite, NotFinite, NothingTrained
from everstep.models.arithmetic import DTYPES, Arithmetic
from everstep.train.advice import advice


def advised(error: NotFinite, rate: float = 1e-4, precision: str = "fp32") -> str:
    config: Config = resolve(None, {"optim": {"learning_rate": rate}})
    return advice(error, config, Arithmetic(torch.device("cpu"), DTYPES[precision]), "runs/a")


def test_an_ordinary_rate_is_halved() -> None:
    assert "everstep resume runs/a --set optim.learning_rate=5e-05" in advised(NotFinite("The loss is nan."))


@pytest.mark.parametrize("rate", [1e30, 0.5])
def test_a_rate_that_nobody_chooses_is_not_halved_but_replaced(rate: float) -> None:
    assert advised(NotFinite("The loss is nan."), rate).endswith("optim.learning_rate=1e-05")


def test_a_first_loss_that_is_no_number_was_not_the_rates_doing() -> None:
    said = advised(FirstNotFinite("The loss is nan."))
    assert "optim.learning_rate" not in said
    assert "everstep sample runs/a@0" in said


def test_fp16_that_overflows_is_left_for_a_precision_that_does_not() -> None:
    for error in (NothingTrained("Nothing is trained."), FirstNotFinite("The loss is nan.")):
        assert advised(error, precision="fp16").endswith("--set compute.precision=bf16")


def test_weights_to_begin_with_that_are_no_numbers_are_refused_by_name(everstep, tiny_base, pairs_folder, workplace):
    base = shutil.copytree(tiny_base, workplace / "base")
    path = next((base / "unet").glob("*.safetensors"))
    tensors = load_file(path)
    tensors["conv_in.weight"].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    ended = everstep("train", "--run", "a", "--base", base, "--data", pairs_folder, "--sampling.pairs", 0)
    assert ended.code == 2, ended.out
    assert f"{base} cannot be begun with: 1 of " in ended.out
    assert "(first: conv_in.weight)" in ended.out
