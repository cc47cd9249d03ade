"""Rules become a bijection, or an error that names what does not fit."""

import numpy as np
import pytest
import torch

from everstep.errors import UserError
from everstep.exchange.keys import Layout, Rule, detect
from everstep.exchange.operations import AsConvolution, Fuse, Operation, SwapHalves, Transpose

JOINS = [(np.concatenate, np.arange), (torch.cat, torch.arange)]


def layout(*rules: Rule, **changed: object) -> Layout:
    return Layout(**{"name": "others", "network": "x", "prefix": "p.", "told_by": ("a",), "rules": rules, **changed})


def test_holes_are_filled_with_sums_and_products_of_numbers_and_counts() -> None:
    table = layout(Rule("b.{i}.r.{j}.{rest}", "x.{(L + 1) * i + j - 1}.{rest}"), counts={"L": "b.0.r.{n}.w"})
    found = table.expand({"b.0.r.1.w": (1,), "b.0.r.0.w": (2,), "b.3.r.1.deep.w": (3,)})
    assert found.their_shapes() == {"p.x.0.w": (1,), "p.x.-1.w": (2,), "p.x.9.deep.w": (3,)}


def test_a_rule_may_be_for_those_beside_another_tensor() -> None:
    table = layout(
        Rule("{i}.up", "2.{i}", beside="{i}.a"), Rule("{i}.up", "1.{i}", without="{i}.a"), Rule("{i}.a", "a.{i}")
    )
    found = table.expand({"0.up": (1,), "1.up": (2,), "1.a": (3,)})
    assert found.their_shapes() == {"p.1.0": (1,), "p.2.1": (2,), "p.a.1": (3,)}


@pytest.mark.parametrize(("join", "count"), JOINS, ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("ours", "operation", "theirs"),
    [
        ({"q": (2, 3), "k": (1, 3), "v": (4, 3)}, Fuse(), (7, 3)),
        ({"q": (4, 3)}, SwapHalves(), (4, 3)),
        ({"q": (4, 3)}, AsConvolution(), (4, 3, 1, 1)),
        ({"q": (4,)}, AsConvolution(), (4,)),
        ({"q": (4, 3)}, Transpose(), (3, 4)),
    ],
)
def test_every_operation_has_its_way_back(
    ours: dict[str, tuple[int, ...]], operation: Operation, theirs: tuple[int, ...], join: object, count: object
) -> None:
    tensors = {
        name: count(int(np.prod(shape))).reshape(shape) + 100 * place
        for place, (name, shape) in enumerate(ours.items())
    }
    found = layout(Rule(tuple(ours), "t", operation)).expand(ours)
    there = found.forward(tensors, join)
    assert {name: tuple(tensor.shape) for name, tensor in there.items()} == found.their_shapes() == {"p.t": theirs}
    back = found.back(there, join)
    assert all((back[name] == tensors[name]).all() and back[name].shape == tensors[name].shape for name in ours)


def test_halves_are_swapped_indeed() -> None:
    found = layout(Rule("q", "t", SwapHalves())).expand({"q": (4,)})
    assert found.forward({"q": np.arange(4)}, np.concatenate)["p.t"].tolist() == [2, 3, 0, 1]


@pytest.mark.parametrize(
    ("rules", "sentence"),
    [
        ((Rule("a", "a"),), "others has no place for all of this network: 1 missing (b)."),
        ((Rule("{rest}", "{rest}"), Rule("b", "c")), "others has no place for all of this network: 1 named twice (b)."),
        ((Rule("a", "c"), Rule("b", "c")), "others has no place for all of this network: 1 named twice (p.c)."),
        ((Rule("a", "a"), Rule(("b", "d"), "c", Fuse())), "others joins what this network has not: 1 missing (d)."),
    ],
)
def test_a_table_that_does_not_fit_a_network_is_refused(rules: tuple[Rule, ...], sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        layout(*rules).expand({"a": (1,), "b": (1,)})
    assert str(refused.value) == sentence


def test_tensors_that_do_not_fit_the_table_are_named() -> None:
    found = layout(Rule("{rest}", "{rest}")).expand(dict.fromkeys("abcde", (2, 3)))
    with pytest.raises(UserError) as refused:
        found.back({"p.a": (2, 3), "p.b": (3, 2), "q.c": (2, 3)})
    assert str(refused.value) == (
        "What is read as others has other tensors: 3 missing (p.c, p.d, p.e); 1 too many (q.c); "
        "1 of another shape (p.b is 3x2, not 2x3)."
    )
    with pytest.raises(UserError, match=r"What is written as others .* 1 too many \(z\)"):
        found.forward({**dict.fromkeys("abcde", (2, 3)), "z": (1,)})


def test_a_layout_is_told_by_its_names() -> None:
    one, other = layout(), layout(told_by=("a", "b"), not_by=("p.no",))
    assert detect((one, other), {"p.a": (1,)}) == [one]
    assert detect((one, other), {"p.a": (1,), "p.b": (1,), "x": (1,)}) == [one, other]
    assert detect((one, other), {"p.a": (1,), "p.b": (1,), "p.none": (1,)}) == [one]
    assert detect((one, other), {"a": (1,)}) == []


def test_of_a_file_with_more_in_it_only_its_own_is_read() -> None:
    table = layout(Rule("{rest}", "{rest}"), unused=(r"count\.\d+",))
    assert table.own({"p.a": 1, "p.count.3": 2, "q.a": 3, "p.counts": 4}) == {"p.a": 1, "p.counts": 4}
