"""What trainers say of themselves is readable, and holds nobody's secrets."""

from argparse import Namespace
from pathlib import Path

import torch
import yaml

from everstep.adapters.telling import as_yaml, batch_size_of, groups_of, plain


def test_everything_has_a_form_and_secrets_have_none() -> None:
    args = Namespace(
        hub_token="hf_secret", api_key="k", tokenizer_name="clip", keys=3, folder=Path("a"), rate=torch.tensor(0.5),
        betas=(0.9, 0.99), no_password=None, inner={"WANDB-KEY": "w", 3: {"x"}}, odd=object,
    )  # fmt: skip
    told = yaml.safe_load(as_yaml(plain(vars(args))))
    assert told == {
        **{"hub_token": "(left out)", "api_key": "(left out)", "tokenizer_name": "clip", "keys": 3, "folder": "a"},
        **{"rate": 0.5, "betas": [0.9, 0.99], "no_password": None, "odd": "<class 'object'>"},
        "inner": {"WANDB-KEY": "(left out)", "3": ["x"]},
    }


def test_groups_are_told_without_their_parameters() -> None:
    optimizer = torch.optim.SGD(torch.nn.Linear(2, 1).parameters(), lr=0.1)
    told = groups_of(optimizer)
    assert told["class"] == "torch.optim.sgd.SGD"
    assert (told["groups"][0]["lr"], told["groups"][0]["tensors"]) == (0.1, 2)


def test_a_batchs_size_is_that_of_its_first_tensor() -> None:
    assert batch_size_of({"text": ["a", "b"], "pixels": torch.zeros(3, 2)}) == 3
    assert batch_size_of([[torch.zeros(4)], torch.zeros(5)]) == 4
    assert batch_size_of(torch.tensor(1.0)) == batch_size_of("words") == 0
