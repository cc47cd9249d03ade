"""Our tables against names that the networks' authors' own code writes: every one, with its shape."""

from pathlib import Path

import pytest

from everstep.exchange import sd
from everstep.exchange.lllite import lllite_shapes
from everstep.exchange.operations import Shape
from exchange import plans

GOLDEN = Path(__file__).parent / "golden"


def lines(name: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in (GOLDEN / f"{name}.txt").read_text().splitlines()]


def shape(text: str) -> Shape:
    return tuple(map(int, text.split("x")))


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_a_controlnet_has_its_authors_names(kind: str) -> None:
    wanted = {name: shape(dims) for name, dims in lines(kind)}
    assert len(wanted) == 340
    assert sd.CONTROLNET_LDM.expand(plans.controlnet(kind)).their_shapes() == wanted
    bare = {name.removeprefix("control_model."): dims for name, dims in wanted.items()}
    assert sd.CONTROLNET_BARE.expand(plans.controlnet(kind)).their_shapes() == bare


def test_an_lllite_has_its_authors_names_in_its_authors_order() -> None:
    told = lines("lllite")
    inside = [(kind, name, shape(dims)) for kind, name, dims in (line for line in told if len(line) == 3)]
    modules = [line for line in told if len(line) == 2]
    wanted = {f"{module}.{name}": dims for module, of in modules for kind, name, dims in inside if kind == of}
    found = lllite_shapes(plans.base("sdxl")["unet"], 32, 64)
    assert (len(modules), len(wanted)) == (136, 1600)
    assert list(found.items()) == list(wanted.items())
